//! The index of a `pytorch_model.bin`, in both formats of `torch.save`: the zip file of PyTorch 1.6
//! and later, and the older stream of pickles (`torch/serialization.py`).
//!
//! A pickle is a program. This reader only runs the few instructions that a state dict consists of,
//! creates nothing but tensors, and refuses every other name: code in a checkpoint is never
//! executed.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Seek, SeekFrom};
use std::rc::Rc;

use super::{Dtype, Entry, byte_len};
use crate::files::DataFile;
use crate::{Error, Result};

/// Maximum number of bytes that are read of a pickle. Names and shapes of a large model take some
/// hundred KiB.
const MAX_PICKLE: u64 = 64 << 20;
/// Maximum nesting of tuples, so that a hostile file cannot exhaust the stack.
const MAX_DEPTH: usize = 32;

/// Names and positions of the tensors in `file`, which is number `number` of its checkpoint.
pub(super) fn index(file: &DataFile, number: usize) -> Result<BTreeMap<String, Entry>> {
    let label = file.label();
    let read = || -> Result<BTreeMap<String, Entry>, String> {
        let mut magic = [0; 4];
        if file.len() >= 4 {
            file.read_at(0, &mut magic).map_err(|e| e.to_string())?;
        }
        let (state, storages) = if magic == *b"PK\x03\x04" { open_zip(file)? } else { open_legacy(file)? };
        let mut index = BTreeMap::new();
        for (name, tensor) in state {
            let place = |reason: &str| format!("tensor `{name}`: {reason}");
            let &(start, bytes) = storages.get(&*tensor.storage.key).ok_or_else(|| place("its storage is missing"))?;
            let dtype = tensor.storage.dtype;
            let strides = (!is_contiguous(&tensor.shape, &tensor.strides)).then_some(tensor.strides);
            byte_len(&tensor.shape, dtype).ok_or_else(|| place("its shape overflows"))?;
            let end = last(&tensor.shape, strides.as_deref())
                .and_then(|values| tensor.offset.checked_add(values)?.checked_mul(dtype.size() as u64));
            if end.is_none_or(|end| end > bytes) {
                return Err(place("it ends after its storage: the file is truncated or damaged"));
            }
            let offset = start + tensor.offset * dtype.size() as u64;
            index.insert(name, Entry { file: number, offset, dtype, shape: tensor.shape, strides });
        }
        Ok(index)
    };
    read().map_err(|reason| Error::invalid(label, reason))
}

type State = Vec<(String, Tensor)>;
/// Byte range (start, length) of each storage, by key.
type Storages = HashMap<String, (u64, u64)>;

fn open_zip(file: &DataFile) -> Result<(State, Storages), String> {
    let mut archive = zip::ZipArchive::new(Cursor { file, position: 0 }).map_err(|e| format!("zip: {e}"))?;
    let mut storages = HashMap::new();
    let mut pickle = Vec::new();
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i).map_err(|e| format!("zip: {e}"))?;
        // `archive/data.pkl`, `archive/data/0`, `archive/byteorder`. The folder has the name of the
        // checkpoint.
        let path = entry.name().map_err(|e| format!("zip: {e}"))?.into_owned();
        let name = path.split_once('/').map_or("", |(_, name)| name);
        if entry.compression() != zip::CompressionMethod::Stored {
            return Err(format!("`{path}` is compressed, which torch.save never does"));
        }
        if name == "data.pkl" || name == "byteorder" {
            let mut content = Vec::new();
            entry.by_ref().take(MAX_PICKLE).read_to_end(&mut content).map_err(|e| format!("{name}: {e}"))?;
            match name {
                "data.pkl" => pickle = content,
                _ if content == b"little" => {}
                _ => return Err("big-endian values".into()),
            }
        } else if let Some(key) = name.strip_prefix("data/") {
            let start = entry.data_start().ok_or("zip: an entry without a position")?;
            if start.checked_add(entry.size()).is_none_or(|end| end > file.len()) {
                return Err(format!("truncated: storage `{key}` ends after the end of the file"));
            }
            storages.insert(key.to_owned(), (start, entry.size()));
        }
    }
    if pickle.is_empty() {
        return Err("no data.pkl in the zip file: not written by torch.save".into());
    }
    Ok((state_dict(Machine::new(&pickle).run()?)?, storages))
}

fn open_legacy(file: &DataFile) -> Result<(State, Storages), String> {
    /// `MAGIC_NUMBER` of torch/serialization.py, little-endian.
    const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
    let mut head = vec![0; MAX_PICKLE.min(file.len()) as usize];
    file.read_at(0, &mut head).map_err(|e| e.to_string())?;
    let mut machine = Machine::new(&head);
    match machine.run() {
        Ok(Value::Long(magic)) if *magic == MAGIC => {}
        _ => return Err("neither a zip file nor a legacy checkpoint of torch.save".into()),
    }
    match machine.run()? {
        Value::Int(1001) => {}
        _ => return Err("unknown protocol of a legacy checkpoint".into()),
    }
    match machine.run()? {
        Value::Dict(info) => {
            let little = info.iter().find(|(key, _)| matches!(key, Value::Str(k) if &**k == "little_endian"));
            if !matches!(little, Some((_, Value::Bool(true)))) {
                return Err("big-endian values".into());
            }
        }
        _ => return Err("no system information in a legacy checkpoint".into()),
    }
    let state = state_dict(machine.run()?)?;
    let Value::List(keys) = machine.run()? else { return Err("no list of storages in a legacy checkpoint".into()) };
    let sizes: HashMap<&str, &Storage> = state.iter().map(|(_, t)| (&*t.storage.key, &t.storage)).collect();
    let mut storages = HashMap::new();
    let mut position = machine.position as u64;
    for key in keys {
        let Value::Str(key) = key else { return Err("a storage key that is not a string".into()) };
        let storage = sizes.get(&*key).ok_or_else(|| format!("storage `{key}` belongs to no tensor"))?;
        let mut count = [0; 8];
        file.read_at(position, &mut count).map_err(|_| format!("truncated before storage `{key}`"))?;
        let bytes =
            u64::from_le_bytes(count).checked_mul(storage.dtype.size() as u64).ok_or("a storage that overflows")?;
        position += 8;
        if position.checked_add(bytes).is_none_or(|end| end > file.len()) {
            return Err(format!("truncated: storage `{key}` ends after the end of the file"));
        }
        storages.insert(key.to_string(), (position, bytes));
        position += bytes;
    }
    Ok((state, storages))
}

/// The tensors of a state dict, or of the dictionary in which trainers store one.
fn state_dict(value: Value) -> Result<State, String> {
    let Value::Dict(items) = value else { return Err("the checkpoint is not a dictionary of tensors".into()) };
    let mut state = Vec::new();
    for (key, value) in items {
        match (key, value) {
            (Value::Str(name), Value::Tensor(tensor)) => state.push((name.to_string(), (*tensor).clone())),
            (Value::Str(name), Value::Dict(inner)) if matches!(&*name, "state_dict" | "model") => {
                return state_dict(Value::Dict(inner));
            }
            (Value::Str(name), _) => return Err(format!("`{name}` is not a tensor")),
            _ => return Err("a key that is not a string".into()),
        }
    }
    Ok(state)
}

/// Number of values from the first to the last one of a tensor; `None` if it overflows.
fn last(shape: &[usize], strides: Option<&[usize]>) -> Option<u64> {
    let count = |n: usize, size: &usize| n.checked_mul(*size);
    let Some(strides) = strides else { return Some(shape.iter().try_fold(1, count)? as u64) };
    if shape.len() != strides.len() {
        return None;
    }
    if shape.contains(&0) {
        return Some(0);
    }
    let steps =
        shape.iter().zip(strides).try_fold(0usize, |n, (size, stride)| n.checked_add((size - 1).checked_mul(*stride)?));
    Some(steps?.checked_add(1)? as u64)
}

/// Whether values are stored in row-major order. Matrices from TensorFlow often have the opposite
/// order.
fn is_contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1usize;
    shape.len() == strides.len()
        && shape.iter().zip(strides).rev().all(|(&size, &stride)| {
            let fits = size <= 1 || stride == expected;
            expected = expected.saturating_mul(size);
            fits
        })
}

#[derive(Clone)]
struct Storage {
    key: Rc<str>,
    dtype: Dtype,
}

#[derive(Clone)]
struct Tensor {
    storage: Storage,
    offset: u64, // in values
    shape: Vec<usize>,
    strides: Vec<usize>,
}

/// The values that the instructions of a state dict can create.
#[derive(Clone)]
enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float,
    /// An integer of more than eight bytes.
    Long(Rc<[u8]>),
    Str(Rc<str>),
    /// The values, and the nesting depth of tuples in them.
    Tuple(Rc<[Value]>, usize),
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    Global(Rc<str>),
    Storage(Rc<Storage>),
    Tensor(Rc<Tensor>),
    Mark,
}

/// The pickle machine, for the instructions that `torch.save` writes (protocol 2, and the common
/// ones of later protocols; Python's `pickletools.py` describes each).
struct Machine<'a> {
    input: &'a [u8],
    position: usize,
    stack: Vec<Value>,
    memo: HashMap<u32, Value>,
}

impl<'a> Machine<'a> {
    fn new(input: &'a [u8]) -> Self {
        Self { input, position: 0, stack: Vec::new(), memo: HashMap::new() }
    }

    /// Runs one pickle up to its STOP.
    fn run(&mut self) -> Result<Value, String> {
        self.stack.clear();
        self.memo.clear();
        loop {
            let opcode = self.byte()?;
            match opcode {
                0x80 => drop(self.byte()?),
                0x95 => drop(self.take(8)?),
                b'(' => self.stack.push(Value::Mark),
                b'.' => return self.pop(),
                b'0' => drop(self.pop()?),
                b'N' => self.stack.push(Value::None),
                0x88 => self.stack.push(Value::Bool(true)),
                0x89 => self.stack.push(Value::Bool(false)),
                b'J' => {
                    let bytes = self.array::<4>()?;
                    self.stack.push(Value::Int(i32::from_le_bytes(bytes).into()));
                }
                b'K' => {
                    let byte = self.byte()?;
                    self.stack.push(Value::Int(byte.into()));
                }
                b'M' => {
                    let bytes = self.array::<2>()?;
                    self.stack.push(Value::Int(u16::from_le_bytes(bytes).into()));
                }
                0x8a => {
                    let len = self.byte()?.into();
                    let bytes = self.take(len)?;
                    self.stack.push(match len {
                        0..=8 => {
                            let sign = if bytes.last().is_some_and(|b| b & 0x80 != 0) { 0xFF } else { 0 };
                            let mut whole = [sign; 8];
                            whole[..len].copy_from_slice(bytes);
                            Value::Int(i64::from_le_bytes(whole))
                        }
                        _ => Value::Long(bytes.into()),
                    });
                }
                b'G' => {
                    self.take(8)?;
                    self.stack.push(Value::Float);
                }
                b'X' | b'T' => {
                    let len = u32::from_le_bytes(self.array()?) as usize;
                    self.string(len)?;
                }
                0x8c | b'U' => {
                    let len = self.byte()?.into();
                    self.string(len)?;
                }
                b'c' => {
                    let name = format!("{}.{}", self.line()?, self.line()?);
                    self.stack.push(Value::Global(name.into()));
                }
                0x93 => {
                    let (Value::Str(name), Value::Str(module)) = (self.pop()?, self.pop()?) else {
                        return Err("pickle: a global whose name is not a string".into());
                    };
                    self.stack.push(Value::Global(format!("{module}.{name}").into()));
                }
                b'q' => {
                    let slot = self.byte()?.into();
                    self.memorize(slot)?;
                }
                b'r' => {
                    let slot = u32::from_le_bytes(self.array()?);
                    self.memorize(slot)?;
                }
                0x94 => self.memorize(self.memo.len() as u32)?,
                b'h' => {
                    let slot = self.byte()?.into();
                    self.recall(slot)?;
                }
                b'j' => {
                    let slot = u32::from_le_bytes(self.array()?);
                    self.recall(slot)?;
                }
                b')' => self.stack.push(Value::Tuple(Rc::new([]), 1)),
                0x85..=0x87 => {
                    let values = self.stack.len().checked_sub((opcode - 0x84) as usize).ok_or("pickle: empty stack")?;
                    let values = self.stack.split_off(values);
                    self.push_tuple(values)?;
                }
                b't' => {
                    let values = self.pop_to_mark()?;
                    self.push_tuple(values)?;
                }
                b'}' => self.stack.push(Value::Dict(Vec::new())),
                b']' => self.stack.push(Value::List(Vec::new())),
                b'a' => {
                    let value = shallow(self.pop()?)?;
                    self.list()?.push(value);
                }
                b'e' => {
                    let values = self.pop_to_mark()?.into_iter().map(shallow).collect::<Result<Vec<_>, _>>()?;
                    self.list()?.extend(values);
                }
                b's' => {
                    let (value, key) = (shallow(self.pop()?)?, shallow(self.pop()?)?);
                    self.dict()?.push((key, value));
                }
                b'u' => {
                    let values = self.pop_to_mark()?.into_iter().map(shallow).collect::<Result<Vec<_>, _>>()?;
                    let mut values = values.into_iter();
                    let dict = self.dict()?;
                    while let (Some(key), Some(value)) = (values.next(), values.next()) {
                        dict.push((key, value));
                    }
                }
                b'Q' => {
                    let id = self.pop()?;
                    self.stack.push(storage(&id)?);
                }
                b'R' => {
                    let (arguments, function) = (self.pop()?, self.pop()?);
                    self.stack.push(call(&function, &arguments)?);
                }
                // Sets attributes of the dictionary, such as `_metadata`, on which no tensor
                // depends.
                b'b' => drop(self.pop()?),
                other => return Err(format!("pickle: instruction {other:#04x} does not belong in a state dict")),
            }
        }
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let end = self.position.checked_add(n).filter(|&end| end <= self.input.len()).ok_or("pickle: truncated")?;
        let bytes = &self.input[self.position..end];
        self.position = end;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N)?.try_into().map_err(|_| "pickle: truncated".into())
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.input[self.position..];
        let len = rest.iter().take(1000).position(|&b| b == b'\n').ok_or("pickle: an endless name")?;
        self.position += len + 1;
        std::str::from_utf8(&rest[..len]).map_err(|_| "pickle: a name that is not UTF-8".into())
    }

    fn string(&mut self, len: usize) -> Result<(), String> {
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| "pickle: a string that is not UTF-8")?;
        self.stack.push(Value::Str(text.into()));
        Ok(())
    }

    fn pop(&mut self) -> Result<Value, String> {
        self.stack.pop().ok_or_else(|| "pickle: empty stack".into())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>, String> {
        let mark = self.stack.iter().rposition(|v| matches!(v, Value::Mark)).ok_or("pickle: no mark")?;
        let values = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(values)
    }

    fn push_tuple(&mut self, values: Vec<Value>) -> Result<(), String> {
        let inner = values.iter().map(|v| if let Value::Tuple(_, depth) = v { *depth } else { 0 }).max().unwrap_or(0);
        if inner >= MAX_DEPTH {
            return Err("pickle: tuples nest too deep".into());
        }
        // A list or dictionary in a tuple could nest without limit, but does not occur in a state
        // dict.
        if values
            .iter()
            .any(|v| matches!(v, Value::List(l) if !l.is_empty()) || matches!(v, Value::Dict(d) if !d.is_empty()))
        {
            return Err("pickle: a collection in a tuple".into());
        }
        self.stack.push(Value::Tuple(values.into(), inner + 1));
        Ok(())
    }

    fn list(&mut self) -> Result<&mut Vec<Value>, String> {
        match self.stack.last_mut() {
            Some(Value::List(list)) => Ok(list),
            _ => Err("pickle: expected a list".into()),
        }
    }

    fn dict(&mut self) -> Result<&mut Vec<(Value, Value)>, String> {
        match self.stack.last_mut() {
            Some(Value::Dict(dict)) => Ok(dict),
            _ => Err("pickle: expected a dictionary".into()),
        }
    }

    fn memorize(&mut self, slot: u32) -> Result<(), String> {
        let value = match self.stack.last() {
            // Collections are changed after they are stored, and a state dict never refers to one
            // again.
            Some(Value::List(_) | Value::Dict(_)) => Value::Mark,
            Some(value) => value.clone(),
            None => return Err("pickle: empty stack".into()),
        };
        self.memo.insert(slot, value);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<(), String> {
        match self.memo.get(&slot) {
            Some(Value::Mark) | None => Err(format!("pickle: nothing usable is stored under {slot}")),
            Some(value) => {
                self.stack.push(value.clone());
                Ok(())
            }
        }
    }
}

/// Refuses collections that nest deeper than in any checkpoint: dropping them would exhaust the
/// stack.
fn shallow(value: Value) -> Result<Value, String> {
    fn depth(value: &Value) -> usize {
        match value {
            Value::List(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
            Value::Dict(items) => 1 + items.iter().map(|(k, v)| depth(k).max(depth(v))).max().unwrap_or(0),
            _ => 0,
        }
    }
    if depth(&value) > 4 { Err("pickle: collections nest too deep".into()) } else { Ok(value) }
}

/// `("storage", torch.FloatStorage, key, location, count, …)`
fn storage(id: &Value) -> Result<Value, String> {
    let Value::Tuple(parts, _) = id else { return Err("pickle: a persistent id that is not a tuple".into()) };
    let [Value::Str(kind), Value::Global(class), Value::Str(key), ..] = &parts[..] else {
        return Err("pickle: a persistent id of another form".into());
    };
    let dtype = match (&**kind, &**class) {
        ("storage", "torch.FloatStorage") => Dtype::F32,
        ("storage", "torch.HalfStorage") => Dtype::F16,
        ("storage", "torch.BFloat16Storage") => Dtype::Bf16,
        ("storage", "torch.DoubleStorage") => Dtype::F64,
        ("storage", "torch.LongStorage") => Dtype::Other(8),
        ("storage", "torch.IntStorage") => Dtype::Other(4),
        ("storage", "torch.ShortStorage") => Dtype::Other(2),
        ("storage", "torch.ByteStorage" | "torch.BoolStorage" | "torch.CharStorage") => Dtype::Other(1),
        _ => return Err(format!("pickle: a {kind} of type {class}")),
    };
    // Views of a storage in the legacy format have a sixth part; current checkpoints have none.
    if parts.get(5).is_some_and(|view| !matches!(view, Value::None)) {
        return Err("pickle: a storage that is a view of another".into());
    }
    Ok(Value::Storage(Rc::new(Storage { key: key.clone(), dtype })))
}

/// The calls that create a state dict. Any other name is refused.
fn call(function: &Value, arguments: &Value) -> Result<Value, String> {
    let (Value::Global(name), Value::Tuple(arguments, _)) = (function, arguments) else {
        return Err("pickle: a call of something that is not a function".into());
    };
    match (&**name, &arguments[..]) {
        ("collections.OrderedDict", []) => Ok(Value::Dict(Vec::new())),
        (
            "torch._utils._rebuild_tensor_v2",
            [Value::Storage(storage), Value::Int(offset), Value::Tuple(shape, _), Value::Tuple(strides, _), ..],
        ) => {
            let sizes = |values: &[Value]| -> Result<Vec<usize>, String> {
                let size = |v: &Value| match v {
                    Value::Int(n) => usize::try_from(*n).map_err(|_| "pickle: a negative size".to_owned()),
                    _ => Err("pickle: a size that is not a number".to_owned()),
                };
                values.iter().map(size).collect()
            };
            Ok(Value::Tensor(Rc::new(Tensor {
                storage: (**storage).clone(),
                offset: u64::try_from(*offset).map_err(|_| "pickle: a negative offset")?,
                shape: sizes(shape)?,
                strides: sizes(strides)?,
            })))
        }
        ("torch._utils._rebuild_parameter", [tensor @ Value::Tensor(_), ..]) => Ok(tensor.clone()),
        _ => Err(format!("pickle: `{name}` is refused: it does not belong in a state dict")),
    }
}

/// A position in a file, for the zip reader.
struct Cursor<'a> {
    file: &'a DataFile,
    position: u64,
}

impl Read for Cursor<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = (buffer.len() as u64).min(self.file.len().saturating_sub(self.position)) as usize;
        self.file.read_at(self.position, &mut buffer[..n]).map_err(std::io::Error::other)?;
        self.position += n as u64;
        Ok(n)
    }
}

impl Seek for Cursor<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let position = match to {
            SeekFrom::Start(n) => Some(n),
            SeekFrom::End(n) => self.file.len().checked_add_signed(n),
            SeekFrom::Current(n) => self.position.checked_add_signed(n),
        };
        self.position = position.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}
