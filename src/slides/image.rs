//! JPEG and PNG files as 8-bit RGB, and PNG files out.
//!
//! What a file is follows from its content, not its name. Pixels are taken as
//! stored: EXIF orientation is not applied, because the coordinates of spots refer
//! to stored pixels, and colour profiles only where they are asked for ([`super::icc`]).
//!
//! Sizes are checked before memory is asked for: a side is at most
//! [`MAX_SIDE`], and a file must be long enough to hold the pixels that its
//! header claims. A JPEG that ends early is an error, not a picture with a grey
//! rest; so is a PNG. (What no reader of whole files can promise: a JPEG whose
//! missing data someone closed with a new end marker may pass.)

use std::any::Any;
use std::fs::File;
use std::io::{Cursor, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use crate::error::{Error, Result};
use crate::formats::atomic::write_atomically;

/// The longest side of an image, in pixels.
pub const MAX_SIDE: usize = 40_000;

/// An image: rows from the top, three bytes a pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rgb8 {
    pub width: usize,
    pub height: usize,
    /// (height, width, 3).
    pub data: Vec<u8>,
}

/// Reads a JPEG (YCbCr, RGB or grey; baseline or progressive) or a PNG (any
/// kind; 16 bits are cut to 8, alpha is laid on white).
///
/// # Errors
/// A file that cannot be read, is neither, is truncated or damaged, is a kind
/// of JPEG that is not supported (CMYK, arithmetic), or claims a size out of
/// bounds.
pub fn read(path: impl AsRef<Path>) -> Result<Rgb8> {
    let path = path.as_ref();
    let (file, len) = open(path)?;
    if len > MAX_FILE {
        return Err(Error::file(
            path,
            "",
            format!("is {len} bytes long, more than any image in bounds"),
            "give a JPEG or PNG",
        ));
    }
    let mut bytes = Vec::new();
    grow(path, &file, &mut bytes, SNIFFED)?;
    let kind = kind(path, &bytes)?;
    grow(path, &file, &mut bytes, len.max(SNIFFED))?;
    match kind {
        Kind::Jpeg => read_jpeg(path, &bytes),
        Kind::Png => read_png(path, &bytes),
    }
}

/// Width and height, from the header alone.
///
/// # Errors
/// As [`read`], as far as the header shows.
pub fn dimensions(path: impl AsRef<Path>) -> Result<(usize, usize)> {
    let path = path.as_ref();
    let (file, len) = open(path)?;
    let mut head = Vec::new();
    // Metadata before the size are rarely above a few kB; when they are, the
    // next attempt reads more.
    let mut wanted = SNIFFED;
    loop {
        grow(path, &file, &mut head, wanted)?;
        let size = match kind(path, &head)? {
            Kind::Jpeg => jpeg_size(path, &head, len),
            Kind::Png => png_size(path, &head, len),
        };
        if size.is_ok() || (head.len() as u64) < wanted || wanted > MAX_HEADER {
            return size;
        }
        wanted *= 16;
    }
}

/// The ICC profile that it carries, if it does.
///
/// # Errors
/// As [`dimensions`]; a profile in pieces that do not fit together is none.
pub fn profile(path: impl AsRef<Path>) -> Result<Option<Vec<u8>>> {
    let path = path.as_ref();
    let (file, len) = open(path)?;
    let mut bytes = Vec::new();
    grow(path, &file, &mut bytes, SNIFFED)?;
    let kind = kind(path, &bytes)?;
    grow(path, &file, &mut bytes, len.min(MAX_FILE))?;
    match kind {
        Kind::Jpeg => guarded(path, || {
            Ok(jpeg_decoder(path, &bytes, len)?.0.icc_profile())
        }),
        Kind::Png => {
            let reader = png_reader(path, &bytes, len, true)?.0;
            Ok(reader.info().icc_profile.as_ref().map(|p| p.to_vec()))
        }
    }
}

/// A longer file is not read: it would be above the pixels that it may hold.
const MAX_FILE: u64 = 3 * (MAX_SIDE as u64).pow(2);
/// First look at a file, and the last size at which a header is given up.
const SNIFFED: u64 = 16 << 10;
const MAX_HEADER: u64 = 16 << 20;

fn open(path: &Path) -> Result<(File, u64)> {
    let read = |e| Error::io("read", path, e);
    let file = File::open(path).map_err(read)?;
    let meta = file.metadata().map_err(read)?;
    if meta.is_dir() {
        return Err(Error::file(
            path,
            "",
            "is a folder",
            "give the path of an image",
        ));
    }
    Ok((file, meta.len()))
}

/// Reads on until `bytes` holds `wanted` bytes or the file ends.
fn grow(path: &Path, file: &File, bytes: &mut Vec<u8>, wanted: u64) -> Result<()> {
    file.take(wanted.saturating_sub(bytes.len() as u64))
        .read_to_end(bytes)
        .map_err(|e| Error::io("read", path, e))?;
    Ok(())
}

/// The key under which a PNG says how many micrometres a pixel has.
pub const MPP: &str = "Micrometres per pixel";

/// Writes an 8-bit RGB PNG, with text chunks (keyword, text).
///
/// # Errors
/// An image whose data do not fit its size; a keyword that PNG does not allow;
/// a file that cannot be written. Nothing is left under `path` then.
pub fn write_png(path: impl AsRef<Path>, image: &Rgb8, text: &[(&str, &str)]) -> Result<()> {
    let path = path.as_ref();
    image.check("write_png")?;
    write_atomically(path, |out| encode(path, out, image, text))
}

/// The image as a PNG in memory.
///
/// # Errors
/// An image whose data do not fit its size.
pub fn png_bytes(image: &Rgb8) -> Result<Vec<u8>> {
    image.check("png_bytes")?;
    let mut bytes = Vec::new();
    encode(Path::new("a PNG"), &mut bytes, image, &[])?;
    Ok(bytes)
}

fn encode(path: &Path, out: impl Write, image: &Rgb8, text: &[(&str, &str)]) -> Result<()> {
    let side = |n: usize| u32::try_from(n).ok().filter(|&n| n > 0);
    let (Some(width), Some(height)) = (side(image.width), side(image.height)) else {
        return Err(misfit("write_png", image));
    };
    let fail = |e: png::EncodingError| match e {
        png::EncodingError::IoError(e) => Error::io("write", path, e),
        e => Error::file(
            path,
            "",
            e.to_string(),
            "keywords have 1 to 79 Latin letters",
        ),
    };
    let mut encoder = png::Encoder::new(out, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    for (keyword, text) in text {
        encoder
            .add_itxt_chunk((*keyword).to_string(), (*text).to_string())
            .map_err(fail)?;
    }
    let mut writer = encoder.write_header().map_err(fail)?;
    writer.write_image_data(&image.data).map_err(fail)?;
    writer.finish().map_err(fail)
}

impl Rgb8 {
    /// That `data` has the length that width and height ask for.
    pub(crate) fn check(&self, op: &'static str) -> Result<()> {
        let expected = self.width.checked_mul(self.height);
        match expected.and_then(|n| n.checked_mul(3)) {
            Some(n) if n == self.data.len() => Ok(()),
            _ => Err(misfit(op, self)),
        }
    }
}

fn misfit(op: &'static str, image: &Rgb8) -> Error {
    Error::shape(
        op,
        &[&[image.height, image.width, 3], &[image.data.len()]],
        "an image of at least one pixel, three bytes each",
    )
}

enum Kind {
    Jpeg,
    Png,
}

fn kind(path: &Path, bytes: &[u8]) -> Result<Kind> {
    if bytes.starts_with(b"\xff\xd8\xff") {
        Ok(Kind::Jpeg)
    } else if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        Ok(Kind::Png)
    } else {
        let problem = if bytes.is_empty() {
            "is empty"
        } else {
            "is neither a JPEG nor a PNG"
        };
        Err(Error::file(path, "", problem, "convert it to JPEG or PNG"))
    }
}

/// Messages of decoders may hold line breaks; an error is one line.
fn damaged(path: &Path, problem: impl Into<String>) -> Error {
    let words: Vec<String> = problem
        .into()
        .split_whitespace()
        .map(String::from)
        .collect();
    Error::file(path, "", words.join(" "), "copy or export the image again")
}

/// That a claimed size is in bounds, and not above `capacity` pixels, the most
/// that a file of this length can hold.
fn check_size(path: &Path, width: usize, height: usize, capacity: u64) -> Result<(usize, usize)> {
    if width == 0 || height == 0 {
        return Err(damaged(path, "has no pixels"));
    }
    if width > MAX_SIDE || height > MAX_SIDE {
        return Err(Error::file(
            path,
            "",
            format!("is {width} x {height} px, above the bound of {MAX_SIDE} px a side"),
            "cut it into parts or export a lower magnification",
        ));
    }
    if width as u64 * height as u64 > capacity {
        return Err(damaged(
            path,
            format!("claims {width} x {height} px, more than a file of its length can hold"),
        ));
    }
    Ok((width, height))
}

/// Every block of 8 x 8 pixels costs at least one bit of the file.
pub(super) const JPEG_PIXELS_PER_BYTE: u64 = 64 * 8;
/// Deflate expands at most 1032 times, and a byte may hold eight pixels.
const PNG_PIXELS_PER_BYTE: u64 = 1032 * 8;

type JpegReader<'a> = JpegDecoder<ZCursor<&'a [u8]>>;
type PngReader<'a> = png::Reader<Cursor<&'a [u8]>>;

fn jpeg_decoder<'a>(
    path: &Path,
    bytes: &'a [u8],
    file_len: u64,
) -> Result<(JpegReader<'a>, (usize, usize))> {
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(MAX_SIDE)
        .set_max_height(MAX_SIDE)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder
        .decode_headers()
        .map_err(|e| damaged(path, format!("the JPEG header cannot be read ({e})")))?;
    let Some(info) = decoder.info() else {
        return Err(damaged(path, "the JPEG has no header"));
    };
    let size = check_size(
        path,
        info.width.into(),
        info.height.into(),
        file_len.saturating_mul(JPEG_PIXELS_PER_BYTE),
    )?;
    let colours = decoder.input_colorspace();
    if !matches!(
        colours,
        Some(ColorSpace::YCbCr | ColorSpace::RGB | ColorSpace::Luma)
    ) {
        return Err(Error::file(
            path,
            "",
            format!("is a JPEG in the colour space {colours:?}"),
            "convert it to RGB",
        ));
    }
    Ok((decoder, size))
}

fn guarded<T>(path: &Path, decode: impl FnOnce() -> Result<T>) -> Result<T> {
    caught(|| Ok(decode())).unwrap_or_else(|problem| Err(damaged(path, problem)))
}

/// A decoder is a dependency that reads hostile bytes: should it panic, that
/// is an error of the file, not of the program.
pub(super) fn caught<T>(decode: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|panic: Box<dyn Any + Send>| {
        let what = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("unknown");
        Err(format!("the decoder gave up ({what})"))
    })
}

fn jpeg_size(path: &Path, head: &[u8], file_len: u64) -> Result<(usize, usize)> {
    guarded(path, || Ok(jpeg_decoder(path, head, file_len)?.1))
}

fn read_jpeg(path: &Path, bytes: &[u8]) -> Result<Rgb8> {
    if !jpeg_is_whole(bytes) {
        return Err(damaged(
            path,
            format!("the JPEG is truncated: it ends after {} bytes", bytes.len()),
        ));
    }
    guarded(path, || {
        let (mut decoder, (width, height)) = jpeg_decoder(path, bytes, bytes.len() as u64)?;
        let mut data = vec![0; width * height * 3];
        decoder
            .decode_into(&mut data)
            .map_err(|e| damaged(path, format!("the JPEG is damaged ({e})")))?;
        Ok(Rgb8 {
            width,
            height,
            data,
        })
    })
}

/// Whether the end-of-image marker is reached, walking from segment to segment
/// (a thumbnail inside a segment has such a marker of its own).
///
/// The decoder notices most early ends, but not one in the last row of blocks.
pub(super) fn jpeg_is_whole(bytes: &[u8]) -> bool {
    const TEM: u8 = 0x01;
    const SOI: u8 = 0xd8;
    const EOI: u8 = 0xd9;
    let mut at = 0;
    // Entropy-coded data hold no marker but restarts, and 0xff 0x00 for 0xff,
    // so outside segments every other 0xff starts the next segment.
    while let Some(step) = bytes.get(at..).and_then(|rest| memchr::memchr(0xff, rest)) {
        at += step + 1;
        match bytes.get(at) {
            None => return false,
            Some(&EOI) => return true,
            Some(&(0x00 | TEM | SOI | 0xd0..=0xd7)) => at += 1,
            Some(0xff) => {}
            Some(_) => {
                let (Some(&high), Some(&low)) = (bytes.get(at + 1), bytes.get(at + 2)) else {
                    return false;
                };
                at += 1 + usize::from(u16::from_be_bytes([high, low]));
            }
        }
    }
    false
}

fn png_reader<'a>(
    path: &Path,
    bytes: &'a [u8],
    file_len: u64,
    with_profile: bool,
) -> Result<(PngReader<'a>, (usize, usize))> {
    // The image itself is ours to allocate; this bounds everything else.
    let limits = png::Limits { bytes: 64 << 20 };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), limits);
    decoder.set_transformations(png::Transformations::EXPAND | png::Transformations::STRIP_16);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(!with_profile);
    let reader = decoder
        .read_info()
        .map_err(|e| damaged(path, format!("the PNG header cannot be read ({e})")))?;
    let info = reader.info();
    let size = check_size(
        path,
        info.width as usize,
        info.height as usize,
        file_len.saturating_mul(PNG_PIXELS_PER_BYTE),
    )?;
    Ok((reader, size))
}

fn png_size(path: &Path, head: &[u8], file_len: u64) -> Result<(usize, usize)> {
    Ok(png_reader(path, head, file_len, false)?.1)
}

fn read_png(path: &Path, bytes: &[u8]) -> Result<Rgb8> {
    let (mut reader, (width, height)) = png_reader(path, bytes, bytes.len() as u64, false)?;
    let fail = |e: png::DecodingError| match e {
        png::DecodingError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => damaged(
            path,
            format!("the PNG is truncated: it ends after {} bytes", bytes.len()),
        ),
        e => damaged(path, format!("the PNG is damaged ({e})")),
    };
    let Some(len) = reader.output_buffer_size() else {
        return Err(damaged(path, "the PNG is too large"));
    };
    let mut raw = vec![0; len];
    let frame = reader.next_frame(&mut raw).map_err(fail)?;
    reader.finish().map_err(fail)?;

    let data = match frame.color_type {
        png::ColorType::Rgb => raw,
        png::ColorType::Grayscale => raw.into_iter().flat_map(|v| [v; 3]).collect(),
        png::ColorType::GrayscaleAlpha => on_white::<2>(&raw, |p| [p[0]; 3]),
        png::ColorType::Rgba => on_white::<4>(&raw, |p| [p[0], p[1], p[2]]),
        // EXPAND has replaced palettes.
        png::ColorType::Indexed => return Err(damaged(path, "the PNG has no palette")),
    };
    let image = Rgb8 {
        width,
        height,
        data,
    };
    image.check("read_png")?;
    Ok(image)
}

/// Lays pixels whose last byte is alpha on white.
fn on_white<const N: usize>(raw: &[u8], colour: impl Fn(&[u8]) -> [u8; 3]) -> Vec<u8> {
    raw.chunks_exact(N)
        .flat_map(|pixel| {
            let alpha = u32::from(pixel[N - 1]);
            colour(pixel).map(|c| {
                let sum = u32::from(c) * alpha + 255 * (255 - alpha);
                ((sum + 127) / 255) as u8
            })
        })
        .collect()
}
