//! PyTorch checkpoints, in both formats of `torch.save`.
//!
//! - zip (1.6 and later): `<name>/data.pkl`, and each storage in `<name>/data/<key>`.
//! - legacy: pickles of a magic number, a protocol version, facts of the machine,
//!   the object and the list of storage keys; then each storage, its length first.
//!
//! The pickle is run by [`super::pickle`], which runs no code. Only the tensors
//! of the state dict are read: an optimiser's state beside it costs nothing.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::io::{Cursor, Read};
use std::path::Path;

use zip::ZipArchive;
use zip::result::ZipError;

use super::array::byte_count;
use super::gather::{View, swap_bytes};
use super::kind::LEGACY_START;
use super::pickle::{self, Object, Pickle, Problem, Storage, Tensor, Value};
use super::weights::{SHOWN, shortened};
use super::{Array, Weights};
use crate::error::{Error, Result};

/// How many times its own size a file may unpack to. Tied weights, expanded
/// tensors and a deflated archive take some; weights hardly compress.
const EXPANSION: usize = 8;
/// How deep dicts may be nested.
const MAX_DEPTH: usize = 32;
/// Longest key of a dict, in bytes.
const MAX_KEY: usize = 1024;
/// Keys under which training scripts put the state dict, the likeliest first.
const WRAPPERS: [&str; 3] = ["state_dict", "model_state_dict", "model"];

const DAMAGED: &str = "the file is cut short or damaged: fetch or write it again";
const RESAVE: &str = "save only weights, with torch.save(model.state_dict(), ...), or safetensors";

/// Bytes that may still be allocated on behalf of a file.
struct Budget(usize);

impl Budget {
    fn of(file: &[u8]) -> Self {
        Self(file.len().saturating_mul(EXPANSION))
    }

    fn take(&mut self, bytes: usize) -> Result<(), String> {
        self.0 = self.0.checked_sub(bytes).ok_or_else(|| {
            format!("needs {bytes} more bytes, and then the whole is more than {EXPANSION} times the file")
        })?;
        Ok(())
    }
}

pub(super) fn parse_zip(path: &Path, bytes: &[u8]) -> Result<Weights> {
    let fail =
        |place: &str, problem: String, remedy: &str| Error::file(path, place, problem, remedy);
    let mut archive = ZipArchive::new(Cursor::new(bytes))
        .map_err(|e| fail("zip directory", e.to_string(), DAMAGED))?;
    if archive.has_duplicate_names() {
        return Err(fail(
            "zip directory",
            "has two entries of the same name".to_owned(),
            DAMAGED,
        ));
    }
    let pickles: Vec<String> = archive
        .file_names()
        .filter_map(|name| Some(name.ok()?.strip_suffix("/data.pkl")?.to_owned()))
        .filter(|folder| !folder.contains('/'))
        .collect();
    let [folder] = &pickles[..] else {
        return Err(fail(
            "zip directory",
            format!(
                "has {} entries called <name>/data.pkl, where torch.save writes one",
                pickles.len()
            ),
            "give a .safetensors file, or a .pth/.pt file that torch.save wrote",
        ));
    };
    if archive
        .index_for_name(&format!("{folder}/constants.pkl"))
        .is_some()
    {
        return Err(fail("", "is a TorchScript program".to_owned(), RESAVE));
    }

    let mut budget = Budget::of(bytes);
    let big_endian = match archive.index_for_name(&format!("{folder}/byteorder")) {
        None => false,
        Some(_) => {
            match &*entry(
                path,
                &mut archive,
                &format!("{folder}/byteorder"),
                &mut budget,
            )? {
                b"little" => false,
                b"big" => true,
                other => {
                    let order = String::from_utf8_lossy(other);
                    let problem = format!("byte order `{}` is not known", order.escape_debug());
                    return Err(fail("byteorder", problem, DAMAGED));
                }
            }
        }
    };
    let data = entry(
        path,
        &mut archive,
        &format!("{folder}/data.pkl"),
        &mut budget,
    )?;
    let pickle = pickle::load(&data).map_err(|p| in_pickle(path, "data.pkl", 0, p))?;
    let state = StateDict::find(path, &pickle, data.len(), &mut budget)?;
    state.load(path, big_endian, &mut budget, |storage, budget| {
        let name = format!("{folder}/data/{}", storage.key);
        entry(path, &mut archive, &name, budget).map(Cow::Owned)
    })
}

/// One entry of an archive, its checksum verified.
fn entry(
    path: &Path,
    archive: &mut ZipArchive<Cursor<&[u8]>>,
    name: &str,
    budget: &mut Budget,
) -> Result<Vec<u8>> {
    let fail = |problem: String| {
        Error::file(
            path,
            format!("entry {}", name.escape_debug()),
            problem,
            DAMAGED,
        )
    };
    let file = archive.by_name(name).map_err(|e| {
        fail(match e {
            ZipError::FileNotFound => "is missing".to_owned(),
            other => other.to_string(),
        })
    })?;
    let size = usize::try_from(file.size()).unwrap_or(usize::MAX);
    budget.take(size).map_err(fail)?;
    let mut data = Vec::with_capacity(size);
    file.take(size as u64 + 1)
        .read_to_end(&mut data)
        .map_err(|e| fail(e.to_string()))?;
    if data.len() != size {
        return Err(fail(format!(
            "claims {size} bytes, but holds {}",
            data.len()
        )));
    }
    Ok(data)
}

pub(super) fn parse_legacy(path: &Path, bytes: &[u8]) -> Result<Weights> {
    let fail = |problem: &str| Error::file(path, "", problem, DAMAGED);
    let mut at = 0;
    let mut next = |what: &str| -> Result<(Pickle<'_>, usize)> {
        let rest = bytes.get(at..).unwrap_or_default();
        let pickle = pickle::load(rest).map_err(|p| in_pickle(path, what, at, p))?;
        at += pickle.len;
        Ok((pickle, at))
    };
    let (_, end) = next("magic number")?;
    if bytes.get(..end) != Some(LEGACY_START) {
        return Err(fail("the magic number of torch.save is damaged"));
    }
    let (protocol, _) = next("protocol version")?;
    if !matches!(protocol.root, Value::Int(1001)) {
        return Err(fail(
            "the protocol version is not 1001, the one of torch.save",
        ));
    }
    next("machine")?;
    let (pickle, _) = next("object")?;
    let (keys, start) = next("list of storages")?;

    let storages = locate(&pickle, &keys, bytes, start).map_err(|problem| fail(&problem))?;
    let mut budget = Budget::of(bytes);
    let state = StateDict::find(path, &pickle, bytes.len(), &mut budget)?;
    state.load(path, false, &mut budget, |storage, _| {
        let data = storages
            .get(storage.key)
            .ok_or_else(|| fail("a tensor's storage is missing"))?;
        Ok(Cow::Borrowed(*data))
    })
}

/// The bytes of every storage that a legacy file lists, by key.
fn locate<'a>(
    pickle: &Pickle<'a>,
    keys: &Pickle<'a>,
    bytes: &'a [u8],
    start: usize,
) -> Result<HashMap<&'a str, &'a [u8]>, String> {
    // A storage's width is only known from the pickle, and needed to find the next.
    let mut widths: HashMap<&str, usize> = HashMap::new();
    for object in &pickle.objects {
        if let Object::Storage(storage) = object {
            let width = *widths.entry(storage.key).or_insert(storage.element.size);
            if width != storage.element.size {
                return Err("a storage is used as elements of two sizes".to_owned());
            }
        }
    }
    let Some(Object::List(keys)) = object(keys, keys.root) else {
        return Err("the list of storages is not a list".to_owned());
    };
    let mut found = HashMap::new();
    let mut rest = bytes.get(start..).unwrap_or_default();
    for key in keys {
        let Value::Str(key) = *key else {
            return Err("a storage's key is not text".to_owned());
        };
        let width = widths
            .get(key)
            .ok_or("the file lists a storage that nothing uses")?;
        let (count, after) = rest
            .split_first_chunk::<8>()
            .ok_or("the file ends before its storages do")?;
        let count = u64::from_le_bytes(*count);
        let (data, after) = usize::try_from(count)
            .ok()
            .and_then(|count| after.split_at_checked(count.checked_mul(*width)?))
            .ok_or_else(|| {
                format!(
                    "a storage claims {count} elements, but {} bytes follow",
                    after.len()
                )
            })?;
        found.insert(key, data);
        rest = after;
    }
    Ok(found)
}

fn in_pickle(path: &Path, what: &str, start: usize, p: Problem) -> Error {
    let place = format!("{what}, byte {}", start.saturating_add(p.at));
    Error::file(path, place, p.problem, p.remedy)
}

fn object<'p, 'a>(pickle: &'p Pickle<'a>, value: Value<'a>) -> Option<&'p Object<'a>> {
    match value {
        Value::Object(n) => pickle.objects.get(n),
        _ => None,
    }
}

/// The tensors of a checkpoint by name, and what was left out.
struct StateDict<'p, 'a> {
    tensors: Vec<(String, &'p Tensor<'a>)>,
    wrapper: Vec<&'static str>,
    ignored: Ignored,
    stripped: Option<&'static str>,
}

impl<'p, 'a> StateDict<'p, 'a> {
    fn find(
        path: &Path,
        pickle: &'p Pickle<'a>,
        pickle_len: usize,
        budget: &mut Budget,
    ) -> Result<Self> {
        let mut walk = Walk {
            pickle,
            tensors: Vec::new(),
            ignored: Ignored::default(),
            // Each value that was written took a byte at least; only what is
            // shared many times over can exceed this.
            visits: pickle_len.saturating_mul(4),
            budget,
        };
        let mut wrapper = Vec::new();
        let mut root = pickle.root;
        while let Some((key, content)) = walk.unwrap(root) {
            if wrapper.len() == MAX_DEPTH {
                break;
            }
            walk.ignore_beside(key, root);
            wrapper.push(key);
            root = content;
        }
        walk.visit(root, "", 0)
            .map_err(|problem| Error::file(path, "", problem, RESAVE))?;
        let Walk {
            mut tensors,
            ignored,
            ..
        } = walk;
        if tensors.is_empty() {
            return Err(Error::file(path, "", "holds no tensor", RESAVE));
        }
        const PREFIX: &str = "module.";
        let parallel = tensors.iter().all(|(name, _)| name.starts_with(PREFIX));
        if parallel {
            for (name, _) in &mut tensors {
                name.drain(..PREFIX.len());
            }
        }
        let mut seen = HashSet::new();
        if let Some((name, _)) = tensors.iter().find(|(name, _)| !seen.insert(name.as_str())) {
            let problem = format!("two tensors are called `{}`", name.escape_debug());
            return Err(Error::file(path, "", problem, RESAVE));
        }
        Ok(Self {
            tensors,
            wrapper,
            ignored,
            stripped: parallel.then_some(PREFIX),
        })
    }

    /// Copies every tensor out of its storage, which `fetch` gets.
    fn load<'s>(
        self,
        path: &Path,
        big_endian: bool,
        budget: &mut Budget,
        mut fetch: impl FnMut(&Storage<'a>, &mut Budget) -> Result<Cow<'s, [u8]>>,
    ) -> Result<Weights> {
        let mut uses: HashMap<&str, usize> = HashMap::new();
        for (_, tensor) in &self.tensors {
            *uses.entry(tensor.storage.key).or_default() += 1;
        }
        let mut weights = Weights::new();
        let mut storages: HashMap<&str, Cow<'s, [u8]>> = HashMap::new();
        for (name, tensor) in self.tensors {
            let storage = &tensor.storage;
            let left = uses.entry(storage.key).or_default();
            *left = left.saturating_sub(1);
            let mut bytes = match storages.remove(storage.key) {
                Some(bytes) => bytes,
                None => fetch(storage, budget)?,
            };
            let last = *left == 0;
            let array =
                materialise(tensor, &mut bytes, last, big_endian, budget).map_err(|problem| {
                    let place = format!("key `{}`", name.escape_debug());
                    Error::file(path, place, problem, DAMAGED_OR_DTYPE)
                })?;
            if !last {
                storages.insert(storage.key, bytes);
            }
            weights.insert(name, array)?;
        }
        let mut note = |key: &str, text: String| {
            if !text.is_empty() {
                weights.metadata.insert(key.to_owned(), text);
            }
        };
        note("torch.wrapper", self.wrapper.join("."));
        note(
            "torch.ignored",
            shortened(&self.ignored.first, self.ignored.count),
        );
        note(
            "torch.stripped_prefix",
            self.stripped.unwrap_or_default().to_owned(),
        );
        Ok(weights)
    }
}

const DAMAGED_OR_DTYPE: &str = "save it again from PyTorch, contiguous and in a dtype that eosin has (f32, f64, f16, bf16, i32, i64, u8, bool)";

/// The array of a tensor. On the `last` use of a storage that it fills, it takes
/// the bytes out of it instead of copying them.
fn materialise(
    tensor: &Tensor<'_>,
    bytes: &mut Cow<'_, [u8]>,
    last: bool,
    big_endian: bool,
    budget: &mut Budget,
) -> Result<Array, String> {
    let Tensor {
        storage,
        element,
        offset,
        shape,
        strides,
    } = tensor;
    let dtype = element
        .dtype
        .ok_or_else(|| format!("eosin has no dtype for {}", element.name))?;
    if storage.len.checked_mul(storage.element.size) != Some(bytes.len()) {
        return Err(format!(
            "its storage claims {} elements of {} bytes, but holds {} bytes",
            storage.len,
            storage.element.size,
            bytes.len()
        ));
    }
    let part = match storage.view {
        None => Some(&**bytes),
        Some((start, len)) => (|| {
            let start = start.checked_mul(storage.element.size)?;
            let len = len.checked_mul(storage.element.size)?;
            bytes.get(start..start.checked_add(len)?)
        })(),
    }
    .ok_or("its view reaches beyond its storage")?;

    let view = View {
        shape,
        strides,
        offset: *offset,
    };
    let size = byte_count(dtype, shape).ok_or_else(|| format!("the shape {shape:?} overflows"))?;
    budget.take(size)?;
    let whole =
        storage.view.is_none() && view.is_contiguous() && *offset == 0 && size == bytes.len();
    let mut data = if whole && last {
        std::mem::take(bytes).into_owned()
    } else {
        view.gather(part, dtype.size()).ok_or_else(|| {
            format!(
                "shape {shape:?} with strides {strides:?} from element {offset} reaches beyond its storage of {} bytes",
                part.len()
            )
        })?
    };
    if big_endian {
        swap_bytes(&mut data, dtype.size());
    }
    Array::checked(dtype, shape.clone(), data)
}

/// What a checkpoint holds beside tensors.
#[derive(Default)]
struct Ignored {
    /// Only as many as are shown.
    first: Vec<String>,
    count: usize,
}

/// The walk over nested dicts and lists that collects tensors.
struct Walk<'p, 'a, 'b> {
    pickle: &'p Pickle<'a>,
    tensors: Vec<(String, &'p Tensor<'a>)>,
    ignored: Ignored,
    visits: usize,
    budget: &'b mut Budget,
}

impl<'p, 'a> Walk<'p, 'a, '_> {
    fn object(&self, value: Value<'a>) -> Option<&'p Object<'a>> {
        object(self.pickle, value)
    }

    /// The well-known key of a checkpoint, and the dict under it.
    fn unwrap(&self, root: Value<'a>) -> Option<(&'static str, Value<'a>)> {
        let Some(Object::Dict(dict)) = self.object(root) else {
            return None;
        };
        WRAPPERS.iter().find_map(|wrapper| {
            let &(_, content) = dict
                .iter()
                .find(|(key, _)| matches!(key, Value::Str(key) if key == wrapper))?;
            let Some(Object::Dict(inner)) = self.object(content) else {
                return None;
            };
            inner
                .iter()
                .any(|(_, v)| matches!(self.object(*v), Some(Object::Tensor(_) | Object::Dict(_))))
                .then_some((*wrapper, content))
        })
    }

    fn ignore_beside(&mut self, taken: &str, root: Value<'a>) {
        let Some(Object::Dict(dict)) = self.object(root) else {
            return;
        };
        for &(key, value) in dict {
            if !matches!(key, Value::Str(key) if key == taken) {
                let name = self.describe(key);
                self.ignore(name.trim_matches('"'), value);
            }
        }
    }

    /// Notes a value that is no tensor.
    fn ignore(&mut self, name: &str, value: Value<'a>) {
        if self.ignored.first.len() < SHOWN {
            let text = format!("{name} = {}", self.describe(value));
            self.ignored.first.push(text);
        }
        self.ignored.count += 1;
    }

    fn describe(&self, value: Value<'a>) -> String {
        const LETTERS: usize = 60;
        match value {
            Value::None => "None".to_owned(),
            Value::Bool(v) => v.to_string(),
            Value::Int(v) => v.to_string(),
            Value::Long => "large integer".to_owned(),
            Value::Float(v) => v.to_string(),
            Value::Str(v) if v.chars().nth(LETTERS).is_some() => {
                format!("{:?}...", v.chars().take(LETTERS).collect::<String>())
            }
            Value::Str(v) => format!("{v:?}"),
            Value::Bytes(v) => format!("{} bytes", v.len()),
            Value::Global(_) => "a name".to_owned(),
            Value::Object(_) => match self.object(value) {
                Some(Object::Tuple(v)) => format!("tuple of {}", v.len()),
                Some(Object::List(v)) => format!("list of {}", v.len()),
                Some(Object::Dict(v)) => format!("dict of {}", v.len()),
                Some(Object::Storage(v)) => format!("storage of {}", v.len),
                Some(Object::Tensor(v)) => format!("tensor {:?}", v.shape),
                Some(Object::Opaque(name)) => (*name).to_owned(),
                None => "nothing".to_owned(),
            },
        }
    }

    fn visit(&mut self, value: Value<'a>, name: &str, depth: usize) -> Result<(), String> {
        self.visits = self
            .visits
            .checked_sub(1)
            .ok_or("the object shares its parts too many times over")?;
        if depth > MAX_DEPTH {
            return Err(format!("the object is nested more than {MAX_DEPTH} deep"));
        }
        match self.object(value) {
            Some(Object::Tensor(tensor)) => {
                let name = if name.is_empty() { "tensor" } else { name };
                self.budget
                    .take(name.len() + size_of::<(String, Array)>())?;
                self.tensors.push((name.to_owned(), tensor));
            }
            Some(Object::Dict(dict)) => {
                for &(key, value) in dict {
                    let key = match key {
                        Value::Str(key) => Cow::Borrowed(key),
                        Value::Int(n) => Cow::Owned(n.to_string()),
                        other => Cow::Owned(self.describe(other)),
                    };
                    self.visit_item(value, name, &key, depth)?;
                }
            }
            Some(Object::List(items) | Object::Tuple(items))
                if items.iter().any(|v| {
                    matches!(
                        self.object(*v),
                        Some(
                            Object::Tensor(_)
                                | Object::Dict(_)
                                | Object::List(_)
                                | Object::Tuple(_)
                        )
                    )
                }) =>
            {
                for (n, &item) in items.iter().enumerate() {
                    self.visit_item(item, name, &n.to_string(), depth)?;
                }
            }
            _ => self.ignore(if name.is_empty() { "value" } else { name }, value),
        }
        Ok(())
    }

    fn visit_item(
        &mut self,
        value: Value<'a>,
        name: &str,
        key: &str,
        depth: usize,
    ) -> Result<(), String> {
        if key.len() > MAX_KEY {
            return Err(format!("a key is longer than {MAX_KEY} bytes"));
        }
        if name.is_empty() {
            return self.visit(value, key, depth + 1);
        }
        self.visit(value, &format!("{name}.{key}"), depth + 1)
    }
}
