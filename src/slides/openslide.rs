//! Slides of vendors that OpenSlide knows, through its library, which is looked
//! for when the first such slide is opened. Without it everything else works.

use std::ffi::{CStr, CString, c_char, c_void};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::Library;

use super::Rgb8;
use super::flat::no_such;
use super::reader::{Associated, Claim, Facts, Level, Slide, check_region, white};
use crate::error::{Error, Result};

/// OpenSlide's `openslide_t`.
type Handle = *mut c_void;

/// The functions of the library that are called here.
struct Api {
    version: unsafe extern "C" fn() -> *const c_char,
    vendor: unsafe extern "C" fn(*const c_char) -> *const c_char,
    open: unsafe extern "C" fn(*const c_char) -> Handle,
    close: unsafe extern "C" fn(Handle),
    error: unsafe extern "C" fn(Handle) -> *const c_char,
    level_count: unsafe extern "C" fn(Handle) -> i32,
    level_size: unsafe extern "C" fn(Handle, i32, *mut i64, *mut i64),
    read_region: unsafe extern "C" fn(Handle, *mut u32, i64, i64, i32, i64, i64),
    property: unsafe extern "C" fn(Handle, *const c_char) -> *const c_char,
    associated_names: unsafe extern "C" fn(Handle) -> *const *const c_char,
    associated_size: unsafe extern "C" fn(Handle, *const c_char, *mut i64, *mut i64),
    read_associated: unsafe extern "C" fn(Handle, *const c_char, *mut u32),
    /// Of OpenSlide 4: the length of a slide's profile, and its bytes.
    profile: Option<(
        unsafe extern "C" fn(Handle) -> i64,
        unsafe extern "C" fn(Handle, *mut c_void),
    )>,
    /// Keeps the functions in memory.
    _library: Library,
}

/// Names under which systems have the library, OpenSlide 4's first.
const NAMES: [&str; 5] = [
    "libopenslide.so.1",
    "libopenslide.so.0",
    "libopenslide.1.dylib",
    "libopenslide-1.dll",
    "libopenslide.so",
];

fn api() -> Result<&'static Api, String> {
    static API: OnceLock<Result<Api, String>> = OnceLock::new();
    API.get_or_init(|| {
        let own = std::env::var_os("EOSIN_OPENSLIDE").map(PathBuf::from);
        let names = NAMES.iter().map(PathBuf::from);
        let mut last = String::new();
        for name in own.into_iter().chain(names) {
            match load(&name) {
                Ok(api) => return Ok(api),
                Err(e) => last = e.to_string(),
            }
        }
        Err(last)
    })
    .as_ref()
    .map_err(Clone::clone)
}

fn load(name: &Path) -> Result<Api, libloading::Error> {
    // SAFETY: loading runs the library's own initialisers, which is what the
    // user installed it for; the types are those of openslide.h, unchanged
    // since version 3.4.
    unsafe {
        let library = Library::new(name)?;
        Ok(Api {
            version: *library.get(b"openslide_get_version\0")?,
            vendor: *library.get(b"openslide_detect_vendor\0")?,
            open: *library.get(b"openslide_open\0")?,
            close: *library.get(b"openslide_close\0")?,
            error: *library.get(b"openslide_get_error\0")?,
            level_count: *library.get(b"openslide_get_level_count\0")?,
            level_size: *library.get(b"openslide_get_level_dimensions\0")?,
            read_region: *library.get(b"openslide_read_region\0")?,
            property: *library.get(b"openslide_get_property_value\0")?,
            associated_names: *library.get(b"openslide_get_associated_image_names\0")?,
            associated_size: *library.get(b"openslide_get_associated_image_dimensions\0")?,
            read_associated: *library.get(b"openslide_read_associated_image\0")?,
            profile: match (
                library.get(b"openslide_get_icc_profile_size\0"),
                library.get(b"openslide_read_icc_profile\0"),
            ) {
                (Ok(size), Ok(read)) => Some((*size, *read)),
                _ => None,
            },
            _library: library,
        })
    }
}

/// The version of the OpenSlide library, or why there is none.
///
/// # Errors
/// What the system's loader said.
pub fn version() -> Result<String, String> {
    // SAFETY: the function takes nothing and returns a constant.
    api().map(|api| text(unsafe { (api.version)() }).unwrap_or_default())
}

/// A copy of a C string, if there is one.
fn text(c: *const c_char) -> Option<String> {
    if c.is_null() {
        return None;
    }
    // SAFETY: OpenSlide returns NULL or a string that ends in NUL and lives as
    // long as the slide or the library; it is copied at once.
    Some(unsafe { CStr::from_ptr(c) }.to_string_lossy().into_owned())
}

/// A slide that OpenSlide reads.
pub struct Foreign {
    api: &'static Api,
    handle: Handle,
    facts: Facts,
}

// SAFETY: openslide.h: all functions on one openslide_t may be called from any
// number of threads at once, save closing, which `Drop` does alone.
unsafe impl Send for Foreign {}
// SAFETY: as above.
unsafe impl Sync for Foreign {}

impl Foreign {
    /// Opens a slide that is of `kind`, as far as `reader::open` could tell.
    ///
    /// # Errors
    /// OpenSlide is not installed, or cannot read the file.
    pub fn open(path: &Path, kind: &str) -> Result<Self> {
        let api = api().map_err(|e| {
            Error::file(
                path,
                "",
                format!("is of a kind ({kind}) that is read through OpenSlide, which is not installed ({e})"),
                "install OpenSlide 4 (`apt install libopenslide1`, `brew install openslide`), \
                 name its library in EOSIN_OPENSLIDE, or convert the slide to a pyramidal TIFF",
            )
        })?;
        let refused = |problem: String| {
            Error::file(
                path,
                "",
                problem,
                "check that the slide is whole, with all files that belong to it",
            )
        };
        if !path.exists() {
            let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(Error::io("open", path, missing));
        }
        let name = CString::new(path.as_os_str().as_encoded_bytes())
            .map_err(|_| refused("has a NUL in its name".into()))?;
        // SAFETY: `name` ends in NUL and lives through both calls.
        let (vendor, handle) = unsafe { ((api.vendor)(name.as_ptr()), (api.open)(name.as_ptr())) };
        if handle.is_null() {
            return Err(refused("is no slide that OpenSlide knows".into()));
        }
        // From here on the handle is closed when `slide` is dropped.
        let mut slide = Self {
            api,
            handle,
            facts: Facts {
                path: path.to_path_buf(),
                vendor: text(vendor).unwrap_or_else(|| "unknown".into()),
                reader: format!("OpenSlide {}", version().unwrap_or_default()),
                levels: Vec::new(),
                claims: Vec::new(),
                magnification: None,
                associated: Vec::new(),
                unread: Vec::new(),
            },
        };
        slide.check()?;
        slide.facts.levels = slide.levels();
        if slide.facts.levels.is_empty() {
            return Err(refused("has no level".into()));
        }
        let number = |key: &str| slide.property(key)?.parse::<f64>().ok();
        if let (Some(x), Some(y)) = (number("openslide.mpp-x"), number("openslide.mpp-y")) {
            slide.facts.claims = vec![Claim {
                source: "OpenSlide's openslide.mpp-x and -y".into(),
                x,
                y,
            }];
        }
        slide.facts.magnification = slide
            .property("openslide.objective-power")
            .and_then(|p| p.parse().ok());
        slide.facts.associated = slide.associated();
        slide.check()?;
        Ok(slide)
    }

    /// That no call so far failed.
    fn check(&self) -> Result<()> {
        // SAFETY: the handle is open.
        match text(unsafe { (self.api.error)(self.handle) }) {
            None => Ok(()),
            Some(problem) => Err(Error::file(
                &self.facts.path,
                "",
                format!("OpenSlide says: {problem}"),
                "check that the slide is whole, with all files that belong to it",
            )),
        }
    }

    fn levels(&self) -> Vec<Level> {
        // SAFETY: the handle is open.
        let count = unsafe { (self.api.level_count)(self.handle) };
        let size = |i: i32| {
            let (mut width, mut height) = (0, 0);
            // SAFETY: the handle is open, and both targets live on the stack.
            unsafe { (self.api.level_size)(self.handle, i, &raw mut width, &raw mut height) };
            let side = |n: i64| usize::try_from(n).ok().filter(|&n| n > 0);
            Some((side(width)?, side(height)?))
        };
        let sizes: Vec<_> = (0..count).map_while(size).collect();
        let main = sizes.first().copied().unwrap_or((1, 1));
        let ratio = |of: usize, to: usize| of as f64 / to as f64;
        (sizes.into_iter())
            .map(|(width, height)| Level {
                width,
                height,
                downsample: (ratio(main.0, width) + ratio(main.1, height)) / 2.0,
                tile: None,
                compression: None,
            })
            .collect()
    }

    fn property(&self, key: &str) -> Option<String> {
        let key = CString::new(key).ok()?;
        // SAFETY: the handle is open and the key ends in NUL.
        text(unsafe { (self.api.property)(self.handle, key.as_ptr()) })
    }

    fn associated(&self) -> Vec<Associated> {
        // SAFETY: the handle is open; the list ends in NULL and lives with it.
        let mut at = unsafe { (self.api.associated_names)(self.handle) };
        let mut found = Vec::new();
        // SAFETY: as above: `at` does not go past the NULL at the end.
        while let Some(name) = (!at.is_null()).then(|| text(unsafe { *at })).flatten() {
            // SAFETY: as above.
            at = unsafe { at.add(1) };
            let Ok(c) = CString::new(name.clone()) else {
                continue;
            };
            let (mut width, mut height) = (0i64, 0i64);
            // SAFETY: as in `levels`.
            unsafe {
                (self.api.associated_size)(
                    self.handle,
                    c.as_ptr(),
                    &raw mut width,
                    &raw mut height,
                );
            }
            if let (Ok(width), Ok(height)) = (usize::try_from(width), usize::try_from(height)) {
                found.push(Associated {
                    name,
                    width,
                    height,
                });
            }
        }
        found
    }
}

/// Colours that were multiplied by their alpha (0xAARRGGBB), on white.
fn on_white(pixels: &[u32], width: usize, height: usize) -> Rgb8 {
    let mut image = white(width, height);
    for (to, &from) in image.data.chunks_exact_mut(3).zip(pixels) {
        let [alpha, r, g, b] = from.to_be_bytes();
        for (to, colour) in to.iter_mut().zip([r, g, b]) {
            *to = colour.saturating_add(255 - alpha);
        }
    }
    image
}

impl Slide for Foreign {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn read_region(&self, level: usize, (x, y): (i64, i64), size: (usize, usize)) -> Result<Rgb8> {
        let downsample = check_region(&self.facts, level, size)?.downsample;
        let finest = |at: i64| (at as f64 * downsample).round() as i64;
        let mut pixels = vec![0u32; size.0 * size.1];
        // SAFETY: the handle is open, and `pixels` holds width x height values.
        unsafe {
            (self.api.read_region)(
                self.handle,
                pixels.as_mut_ptr(),
                finest(x),
                finest(y),
                level as i32,
                size.0 as i64,
                size.1 as i64,
            );
        }
        self.check()?;
        Ok(on_white(&pixels, size.0, size.1))
    }

    fn profile(&self) -> Result<Option<Vec<u8>>> {
        let Some((size, read)) = self.api.profile else {
            return Err(Error::file(
                &self.facts.path,
                "",
                "has colours that this OpenSlide cannot tell: it is older than version 4",
                "install OpenSlide 4, or take the slide without its profile (no --icc)",
            ));
        };
        // SAFETY: the handle is open.
        let size = unsafe { size(self.handle) };
        self.check()?;
        if size <= 0 {
            return Ok(None);
        }
        let mut bytes = vec![0u8; usize::try_from(size).unwrap_or_default().min(1 << 26)];
        if bytes.len() as i64 != size {
            return Err(Error::file(
                &self.facts.path,
                "its ICC profile",
                format!("is {size} bytes long"),
                "take the slide without its profile (no --icc)",
            ));
        }
        // SAFETY: the handle is open, and `bytes` has the length that was asked for.
        unsafe { read(self.handle, bytes.as_mut_ptr().cast()) };
        self.check()?;
        Ok(Some(bytes))
    }

    fn read_associated(&self, name: &str) -> Result<Rgb8> {
        let found = self.facts.associated.iter().find(|a| a.name == name);
        let (Some(found), Ok(c)) = (found, CString::new(name)) else {
            return Err(no_such(&self.facts, name));
        };
        let pixels = found.width.checked_mul(found.height);
        if pixels.is_none_or(|n| n == 0 || n > super::reader::MAX_REGION) {
            return Err(no_such(&self.facts, name));
        }
        let mut pixels = vec![0u32; found.width * found.height];
        // SAFETY: as in `read_region`.
        unsafe { (self.api.read_associated)(self.handle, c.as_ptr(), pixels.as_mut_ptr()) };
        self.check()?;
        Ok(on_white(&pixels, found.width, found.height))
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        // SAFETY: the handle is open, and nobody else has it any more.
        unsafe { (self.api.close)(self.handle) };
    }
}
