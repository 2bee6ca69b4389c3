//! A pickle machine that runs no code.
//!
//! It knows the opcodes that Python writes at protocols 2 to 5 and an allow-list
//! of globals. The few that PyTorch needs are carried out here; the harmless
//! ones (NumPy scalars, `torch.device`, ...) become opaque values; any other is
//! an error that names it.
//!
//! Hostile input is bounded by construction: values live in one arena and refer
//! to each other by index, so that nesting and cycles cost no stack; strings are
//! slices of the input; every opcode adds at most one value; and the number of
//! opcodes is limited.
//!
//! Source: Python's pickletools; torch/serialization.py, torch/_utils.py.

use std::collections::HashMap;

use crate::dtype::DType;

/// Room for some 50,000 tensors. At 250 bytes each (a list in a list, the
/// costliest) 1 GiB, which takes a pickle of 8 MB.
const MAX_OPCODES: usize = 1 << 22;
/// As in PyTorch.
const MAX_RANK: usize = 64;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// An integer beyond i64.
    Long,
    Float(f64),
    Str(&'a str),
    Bytes(&'a [u8]),
    Global(Global<'a>),
    /// An index into [`Pickle::objects`].
    Object(usize),
}

#[derive(Debug)]
pub(crate) enum Object<'a> {
    Tuple(Vec<Value<'a>>),
    List(Vec<Value<'a>>),
    Dict(Vec<(Value<'a>, Value<'a>)>),
    // Boxed, since every list of a hostile pickle would take as much room.
    Storage(Box<Storage<'a>>),
    Tensor(Box<Tensor<'a>>),
    /// The result of a harmless global that eosin has no use for.
    Opaque(&'a str),
}

/// What a storage holds, by PyTorch's class name.
#[derive(Debug, PartialEq)]
pub(crate) struct Element {
    pub name: &'static str,
    pub size: usize,
    /// `None` where eosin has no such dtype.
    pub dtype: Option<DType>,
}

/// A run of elements kept outside the pickle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Storage<'a> {
    pub key: &'a str,
    pub element: &'static Element,
    /// Elements in the whole storage called `key`.
    pub len: usize,
    /// The part of it, in elements, that this one is (legacy format only).
    pub view: Option<(usize, usize)>,
}

/// A strided view of a storage; strides and offset in elements.
#[derive(Clone, Debug)]
pub(crate) struct Tensor<'a> {
    pub storage: Storage<'a>,
    pub element: &'static Element,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Global<'a> {
    OrderedDict,
    Counter,
    Size,
    RebuildTensor,
    RebuildTensorV2,
    RebuildTensorV3,
    RebuildParameter,
    RebuildFromType,
    Element(&'static Element),
    /// A dtype such as `torch.float32`, by its element.
    DType(&'static Element),
    /// Harmless, and of no use here.
    Opaque(&'a str),
}

/// The outcome of one pickle.
#[derive(Debug)]
pub(crate) struct Pickle<'a> {
    pub objects: Vec<Object<'a>>,
    pub root: Value<'a>,
    /// The bytes that it took.
    pub len: usize,
}

/// What is wrong, where, and what to do about it.
#[derive(Debug)]
pub(crate) struct Problem {
    pub at: usize,
    pub problem: String,
    pub remedy: &'static str,
}

const DAMAGED: &str = "the file is cut short or damaged: fetch or write it again";
const STATE_DICT_ONLY: &str =
    "save only weights, with torch.save(model.state_dict(), ...), or safetensors";

const fn element(name: &'static str, size: usize, dtype: Option<DType>) -> Element {
    Element { name, size, dtype }
}

static ELEMENTS: &[Element] = &[
    element("FloatStorage", 4, Some(DType::F32)),
    element("DoubleStorage", 8, Some(DType::F64)),
    element("HalfStorage", 2, Some(DType::F16)),
    element("BFloat16Storage", 2, Some(DType::BF16)),
    element("IntStorage", 4, Some(DType::I32)),
    element("LongStorage", 8, Some(DType::I64)),
    element("ByteStorage", 1, Some(DType::U8)),
    element("BoolStorage", 1, Some(DType::Bool)),
    element("CharStorage", 1, None),
    element("ShortStorage", 2, None),
    element("ComplexFloatStorage", 8, None),
    element("ComplexDoubleStorage", 16, None),
    element("QInt8Storage", 1, None),
    element("QUInt8Storage", 1, None),
    element("QInt32Storage", 4, None),
    element("UntypedStorage", 1, None),
];

/// As [`ELEMENTS`], for `torch.float32` and its like.
static DTYPES: &[Element] = &[
    element("float32", 4, Some(DType::F32)),
    element("float64", 8, Some(DType::F64)),
    element("float16", 2, Some(DType::F16)),
    element("bfloat16", 2, Some(DType::BF16)),
    element("int32", 4, Some(DType::I32)),
    element("int64", 8, Some(DType::I64)),
    element("uint8", 1, Some(DType::U8)),
    element("bool", 1, Some(DType::Bool)),
    element("int8", 1, None),
    element("int16", 2, None),
    element("uint16", 2, None),
    element("uint32", 4, None),
    element("uint64", 8, None),
    element("complex64", 8, None),
    element("complex128", 16, None),
    element("float8_e4m3fn", 1, None),
    element("float8_e5m2", 1, None),
    element("float8_e4m3fnuz", 1, None),
    element("float8_e5m2fnuz", 1, None),
];

fn lookup(table: &'static [Element], name: &str) -> Option<&'static Element> {
    table.iter().find(|element| element.name == name)
}

/// The allow-list.
fn global<'a>(module: &str, name: &'a str) -> Option<Global<'a>> {
    Some(match (module, name) {
        ("collections", "OrderedDict") => Global::OrderedDict,
        ("collections", "Counter") => Global::Counter,
        ("torch", "Size") => Global::Size,
        ("torch._utils", "_rebuild_tensor") => Global::RebuildTensor,
        ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensorV2,
        ("torch._utils", "_rebuild_tensor_v3") => Global::RebuildTensorV3,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
            Global::RebuildParameter
        }
        ("torch._tensor", "_rebuild_from_type_v2") => Global::RebuildFromType,
        ("torch", "device" | "Tensor")
        | ("torch.nn.parameter", "Parameter")
        | ("argparse", "Namespace")
        | ("builtins" | "__builtin__", "set" | "frozenset" | "complex" | "slice" | "bytearray")
        | ("_codecs", "encode")
        | ("numpy", "dtype" | "ndarray")
        | ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar" | "_reconstruct")
        | ("numpy._core.numeric" | "numpy.core.numeric", "_frombuffer") => Global::Opaque(name),
        ("torch" | "torch.cuda" | "torch.storage", _) => lookup(ELEMENTS, name)
            .map(Global::Element)
            .or_else(|| lookup(DTYPES, name).map(Global::DType))?,
        _ => return None,
    })
}

/// Runs the pickle at the start of `bytes`.
pub(crate) fn load(bytes: &[u8]) -> Result<Pickle<'_>, Problem> {
    let mut machine = Machine {
        bytes,
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        objects: Vec::new(),
        copies: bytes.len(),
    };
    let mut start = 0;
    machine
        .run(&mut start)
        .map_err(|stop| {
            let (problem, remedy) = match stop {
                Stop::Damaged(problem) => (problem, DAMAGED),
                Stop::Refused(problem) => (problem, STATE_DICT_ONLY),
            };
            Problem {
                at: start,
                problem,
                remedy,
            }
        })
        .map(|root| Pickle {
            root,
            len: machine.at,
            objects: machine.objects,
        })
}

/// Why the machine stopped early.
enum Stop {
    Damaged(String),
    Refused(String),
}

impl From<&str> for Stop {
    fn from(problem: &str) -> Self {
        Self::Damaged(problem.to_owned())
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    /// Heights of the stack at each open mark.
    marks: Vec<usize>,
    memo: HashMap<usize, Value<'a>>,
    objects: Vec<Object<'a>>,
    /// Pairs that may still be copied from a list into a dict. Each was written
    /// once, so an honest pickle has bytes enough.
    copies: usize,
}

type Step<T> = Result<T, Stop>;

impl<'a> Machine<'a> {
    /// `start` is left at the opcode that failed.
    fn run(&mut self, start: &mut usize) -> Step<Value<'a>> {
        for _ in 0..MAX_OPCODES {
            *start = self.at;
            let opcode = self.byte()?;
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode)?;
        }
        Err(Stop::Refused(format!(
            "the pickle has more than {MAX_OPCODES} opcodes"
        )))
    }

    fn step(&mut self, opcode: u8) -> Step<()> {
        match opcode {
            // PROTO, FRAME
            0x80 => match self.byte()? {
                0..=5 => {}
                other => {
                    return Err(Stop::Damaged(format!(
                        "pickle protocol {other} is not known"
                    )));
                }
            },
            0x95 => {
                self.take(8)?;
            }
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                self.pop()?;
            }
            b'1' => {
                self.pop_mark()?;
            }
            // DUP
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            b'N' => self.stack.push(Value::None),
            0x88 => self.stack.push(Value::Bool(true)),
            0x89 => self.stack.push(Value::Bool(false)),
            // BININT, BININT1, BININT2, LONG1, LONG4, BINFLOAT
            b'J' => {
                let n = i32::from_le_bytes(self.array()?);
                self.stack.push(Value::Int(n.into()));
            }
            b'K' => {
                let n = self.byte()?;
                self.stack.push(Value::Int(n.into()));
            }
            b'M' => {
                let n = u16::from_le_bytes(self.array()?);
                self.stack.push(Value::Int(n.into()));
            }
            0x8a => {
                let n = self.byte()?.into();
                self.long(n)?;
            }
            0x8b => {
                let n = self.length4()?;
                self.long(n)?;
            }
            b'G' => {
                let v = f64::from_be_bytes(self.array()?);
                self.stack.push(Value::Float(v));
            }
            // Strings: SHORT_BINUNICODE, BINUNICODE, BINUNICODE8
            0x8c => {
                let n = self.byte()?.into();
                self.string(n)?;
            }
            b'X' => {
                let n = self.length4()?;
                self.string(n)?;
            }
            0x8d => {
                let n = self.length8()?;
                self.string(n)?;
            }
            // Python 2's strings, text or bytes: SHORT_BINSTRING, BINSTRING
            b'U' => {
                let n = self.byte()?.into();
                self.string_or_bytes(n)?;
            }
            b'T' => {
                let n = self.length4()?;
                self.string_or_bytes(n)?;
            }
            // SHORT_BINBYTES, BINBYTES, BINBYTES8, BYTEARRAY8
            b'C' => {
                let n = self.byte()?.into();
                self.binary(n)?;
            }
            b'B' => {
                let n = self.length4()?;
                self.binary(n)?;
            }
            0x8e | 0x96 => {
                let n = self.length8()?;
                self.binary(n)?;
            }
            // EMPTY_TUPLE, TUPLE, TUPLE1 to TUPLE3
            b')' => self.push(Object::Tuple(Vec::new())),
            b't' => {
                let items = self.pop_mark()?;
                self.push(Object::Tuple(items));
            }
            0x85..=0x87 => {
                let items = self.pop_many(usize::from(opcode - 0x84))?;
                self.push(Object::Tuple(items));
            }
            // EMPTY_LIST, EMPTY_SET, LIST, FROZENSET, APPEND, APPENDS, ADDITEMS
            b']' | 0x8f => self.push(Object::List(Vec::new())),
            b'l' | 0x91 => {
                let items = self.pop_mark()?;
                self.push(Object::List(items));
            }
            b'a' => {
                let items = self.pop_many(1)?;
                self.append(items)?;
            }
            b'e' | 0x90 => {
                let items = self.pop_mark()?;
                self.append(items)?;
            }
            // EMPTY_DICT, DICT, SETITEM, SETITEMS
            b'}' => self.push(Object::Dict(Vec::new())),
            b'd' => {
                let items = self.pop_mark()?;
                self.push(Object::Dict(Vec::new()));
                self.set_items(items)?;
            }
            b's' => {
                let items = self.pop_many(2)?;
                self.set_items(items)?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set_items(items)?;
            }
            // The memo: BINGET, LONG_BINGET, BINPUT, LONG_BINPUT, MEMOIZE
            b'h' => {
                let n = self.byte()?.into();
                self.get(n)?;
            }
            b'j' => {
                let n = self.length4()?;
                self.get(n)?;
            }
            b'q' => {
                let n = self.byte()?.into();
                self.put(n)?;
            }
            b'r' => {
                let n = self.length4()?;
                self.put(n)?;
            }
            0x94 => self.put(self.memo.len())?,
            // GLOBAL, STACK_GLOBAL
            b'c' => {
                let module = self.line()?;
                let name = self.line()?;
                self.global(module, name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::Str(module), Value::Str(name)) = (module, name) else {
                    return Err("a global's name is not text".into());
                };
                self.global(module, name)?;
            }
            // REDUCE, NEWOBJ, NEWOBJ_EX: call, or make an instance
            b'R' | 0x81 => {
                let (args, callee) = (self.pop()?, self.pop()?);
                let result = self.call(callee, args)?;
                self.stack.push(result);
            }
            0x92 => {
                let (_keywords, args, callee) = (self.pop()?, self.pop()?, self.pop()?);
                let result = self.call(callee, args)?;
                self.stack.push(result);
            }
            // BUILD sets attributes, such as the `_metadata` of a state dict.
            b'b' => {
                self.pop()?;
                self.top()?;
            }
            // BINPERSID
            b'Q' => {
                let id = self.pop()?;
                let storage = self.storage(id)?;
                self.push(Object::Storage(Box::new(storage)));
            }
            other => {
                return Err(Stop::Damaged(format!(
                    "opcode 0x{other:02x} is not one that torch.save writes"
                )));
            }
        }
        Ok(())
    }

    // Reading

    fn take(&mut self, n: usize) -> Step<&'a [u8]> {
        let end = self.at.checked_add(n);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let Some(taken) = taken else {
            return Err(Stop::Damaged(format!(
                "{n} bytes are needed, but {} are left",
                self.bytes.len() - self.at
            )));
        };
        self.at += n;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Step<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn byte(&mut self) -> Step<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn length4(&mut self) -> Step<usize> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    fn length8(&mut self) -> Step<usize> {
        usize::try_from(u64::from_le_bytes(self.array()?))
            .map_err(|_| "a length is beyond what memory can hold".into())
    }

    fn line(&mut self) -> Step<&'a str> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = rest
            .iter()
            .take(1024)
            .position(|&b| b == b'\n')
            .ok_or("a global's name does not end")?;
        let line = self.take(length)?;
        self.take(1)?;
        std::str::from_utf8(line).map_err(|_| "a global's name is not text".into())
    }

    fn long(&mut self, n: usize) -> Step<()> {
        let raw = self.take(n)?;
        let value = if n <= 8 {
            let negative = raw.last().is_some_and(|b| b & 0x80 != 0);
            let mut wide = [if negative { 0xff } else { 0 }; 8];
            for (to, from) in wide.iter_mut().zip(raw) {
                *to = *from;
            }
            Value::Int(i64::from_le_bytes(wide))
        } else {
            Value::Long
        };
        self.stack.push(value);
        Ok(())
    }

    fn string(&mut self, n: usize) -> Step<()> {
        let raw = self.take(n)?;
        let text = std::str::from_utf8(raw).map_err(|_| "a string is not UTF-8")?;
        self.stack.push(Value::Str(text));
        Ok(())
    }

    fn string_or_bytes(&mut self, n: usize) -> Step<()> {
        let raw = self.take(n)?;
        let value = std::str::from_utf8(raw).map_or(Value::Bytes(raw), Value::Str);
        self.stack.push(value);
        Ok(())
    }

    fn binary(&mut self, n: usize) -> Step<()> {
        let raw = self.take(n)?;
        self.stack.push(Value::Bytes(raw));
        Ok(())
    }

    // The stack

    fn push(&mut self, object: Object<'a>) {
        self.stack.push(Value::Object(self.objects.len()));
        self.objects.push(object);
    }

    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Step<Value<'a>> {
        if self.stack.len() <= self.floor() {
            return Err("the stack is empty".into());
        }
        self.stack.pop().ok_or_else(|| "the stack is empty".into())
    }

    fn top(&self) -> Step<Value<'a>> {
        if self.stack.len() <= self.floor() {
            return Err("the stack is empty".into());
        }
        self.stack
            .last()
            .copied()
            .ok_or_else(|| "the stack is empty".into())
    }

    fn pop_many(&mut self, n: usize) -> Step<Vec<Value<'a>>> {
        let start = self.stack.len().checked_sub(n);
        let start = start.filter(|&start| start >= self.floor());
        Ok(self
            .stack
            .drain(start.ok_or("the stack is empty")?..)
            .collect())
    }

    fn pop_mark(&mut self) -> Step<Vec<Value<'a>>> {
        let mark = self.marks.pop().ok_or("a mark is missing")?;
        Ok(self.stack.drain(mark.min(self.stack.len())..).collect())
    }

    fn get(&mut self, n: usize) -> Step<()> {
        let value = self
            .memo
            .get(&n)
            .copied()
            .ok_or("the memo has no such entry")?;
        self.stack.push(value);
        Ok(())
    }

    fn put(&mut self, n: usize) -> Step<()> {
        let top = self.top()?;
        self.memo.insert(n, top);
        Ok(())
    }

    // Objects

    fn top_object(&mut self) -> Step<&mut Object<'a>> {
        let Value::Object(n) = self.top()? else {
            return Err("items are put into something that holds none".into());
        };
        self.objects
            .get_mut(n)
            .ok_or_else(|| "an object is missing".into())
    }

    fn append(&mut self, items: Vec<Value<'a>>) -> Step<()> {
        match self.top_object()? {
            Object::List(list) => list.extend(items),
            Object::Opaque(_) => {}
            _ => return Err("items are appended to something other than a list".into()),
        }
        Ok(())
    }

    fn set_items(&mut self, items: Vec<Value<'a>>) -> Step<()> {
        let (pairs, odd) = items.as_chunks::<2>();
        if !odd.is_empty() {
            return Err("a dict has a key without a value".into());
        }
        match self.top_object()? {
            Object::Dict(dict) => dict.extend(pairs.iter().map(|&[key, value]| (key, value))),
            Object::Opaque(_) => {}
            _ => return Err("items are set in something other than a dict".into()),
        }
        Ok(())
    }

    fn object(&self, value: Value<'a>) -> Option<&Object<'a>> {
        match value {
            Value::Object(n) => self.objects.get(n),
            _ => None,
        }
    }

    fn tuple(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        match self.object(value)? {
            Object::Tuple(items) => Some(items),
            _ => None,
        }
    }

    fn global(&mut self, module: &str, name: &'a str) -> Step<()> {
        let Some(global) = global(module, name) else {
            let shown: String = format!("{module}.{name}").chars().take(120).collect();
            return Err(Stop::Refused(format!(
                "the pickle asks for `{}`: refused, since loading weights must run no code",
                shown.escape_debug()
            )));
        };
        self.stack.push(Value::Global(global));
        Ok(())
    }

    /// Carries out a call of an allowed global.
    fn call(&mut self, mut callee: Value<'a>, mut args: Value<'a>) -> Step<Value<'a>> {
        // `_rebuild_from_type_v2(function, type, args, state)` calls `function(*args)`.
        if let Value::Global(Global::RebuildFromType) = callee {
            let Some(&[function, _, inner, _]) = self.tuple(args) else {
                return Err("a tensor subclass is described wrongly".into());
            };
            (callee, args) = (function, inner);
        }
        let Value::Global(callee) = callee else {
            return Err("something that is not a function is called".into());
        };
        let items = self.tuple(args).ok_or("a call has no tuple of arguments")?;
        let made = match callee {
            Global::OrderedDict => match items {
                [] => Object::Dict(Vec::new()),
                &[pairs] => {
                    let pairs = self.pairs(pairs)?;
                    self.copies = self
                        .copies
                        .checked_sub(pairs.len())
                        .ok_or("a list is made into a dict too many times over")?;
                    Object::Dict(pairs)
                }
                _ => return Err("OrderedDict is called wrongly".into()),
            },
            Global::Counter => Object::Opaque("Counter"),
            Global::Size => {
                return items
                    .first()
                    .copied()
                    .ok_or_else(|| "torch.Size is called wrongly".into());
            }
            Global::RebuildTensor | Global::RebuildTensorV2 => match items {
                [storage, offset, shape, strides, ..] => Object::Tensor(Box::new(
                    self.tensor(*storage, *offset, *shape, *strides, None)?,
                )),
                _ => return Err("a tensor is described wrongly".into()),
            },
            Global::RebuildTensorV3 => match items {
                [
                    storage,
                    offset,
                    shape,
                    strides,
                    _,
                    _,
                    Value::Global(Global::DType(element)),
                    ..,
                ] => Object::Tensor(Box::new(self.tensor(
                    *storage,
                    *offset,
                    *shape,
                    *strides,
                    Some(element),
                )?)),
                _ => return Err("a tensor is described wrongly".into()),
            },
            Global::RebuildParameter => {
                return match items {
                    [data, ..] if matches!(self.object(*data), Some(Object::Tensor(_))) => {
                        Ok(*data)
                    }
                    _ => Err("a parameter is described wrongly".into()),
                };
            }
            Global::Opaque(name) => Object::Opaque(name),
            Global::Element(Element { name, .. }) | Global::DType(Element { name, .. }) => {
                Object::Opaque(name)
            }
            Global::RebuildFromType => return Err("tensor subclasses are nested".into()),
        };
        self.objects.push(made);
        Ok(Value::Object(self.objects.len() - 1))
    }

    /// The items of a list of pairs, as Python 2 gave them to OrderedDict, or of a dict.
    fn pairs(&self, value: Value<'a>) -> Step<Vec<(Value<'a>, Value<'a>)>> {
        match self.object(value) {
            Some(Object::Dict(dict)) if dict.is_empty() => Ok(Vec::new()),
            Some(Object::List(list)) => list
                .iter()
                .map(|&pair| match self.object(pair) {
                    Some(Object::List(pair) | Object::Tuple(pair)) => match pair[..] {
                        [key, value] => Ok((key, value)),
                        _ => Err("OrderedDict is given something other than pairs".into()),
                    },
                    _ => Err("OrderedDict is given something other than pairs".into()),
                })
                .collect(),
            _ => Err("OrderedDict is given something other than pairs".into()),
        }
    }

    /// A persistent id: `("storage", class, key, device, elements)`, in the
    /// legacy format followed by None or `(view key, offset, elements)`.
    fn storage(&self, id: Value<'a>) -> Step<Storage<'a>> {
        let wrong = "a persistent id does not describe a storage";
        let (head, view) = match *self.tuple(id).ok_or(wrong)? {
            [a, b, c, d, e] | [a, b, c, d, e, Value::None] => ([a, b, c, d, e], None),
            [a, b, c, d, e, view] => ([a, b, c, d, e], Some(view)),
            _ => return Err(wrong.into()),
        };
        let [
            Value::Str("storage"),
            Value::Global(Global::Element(element)),
            Value::Str(key),
            _,
            len,
        ] = head
        else {
            return Err(wrong.into());
        };
        let view = match view {
            None => None,
            Some(view) => match self.tuple(view) {
                Some(&[_, offset, len]) => Some((index(offset)?, index(len)?)),
                _ => return Err(wrong.into()),
            },
        };
        Ok(Storage {
            key,
            element,
            len: index(len)?,
            view,
        })
    }

    fn tensor(
        &self,
        storage: Value<'a>,
        offset: Value<'a>,
        shape: Value<'a>,
        strides: Value<'a>,
        element: Option<&'static Element>,
    ) -> Step<Tensor<'a>> {
        let Some(Object::Storage(storage)) = self.object(storage) else {
            return Err("a tensor has no storage".into());
        };
        let dimensions = |value| -> Step<Vec<usize>> {
            let items = self.tuple(value).ok_or("a tensor's shape is not a tuple")?;
            if items.len() > MAX_RANK {
                return Err(Stop::Damaged(format!(
                    "a tensor has more than {MAX_RANK} axes"
                )));
            }
            items.iter().map(|&v| index(v)).collect()
        };
        let (shape, strides) = (dimensions(shape)?, dimensions(strides)?);
        if shape.len() != strides.len() {
            return Err("a tensor's shape and strides differ in length".into());
        }
        Ok(Tensor {
            storage: **storage,
            element: element.unwrap_or(storage.element),
            offset: index(offset)?,
            shape,
            strides,
        })
    }
}

fn index(value: Value<'_>) -> Step<usize> {
    match value {
        Value::Int(n) => usize::try_from(n)
            .map_err(|_| Stop::Damaged(format!("{n} stands where a size or offset should be"))),
        _ => Err("a size or offset is not a whole number".into()),
    }
}
