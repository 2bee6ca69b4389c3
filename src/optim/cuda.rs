//! The update on CUDA: one launch for all parameters, see kernels/optim.cu.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use super::update::Rule;
use super::{Kind, Sgd, Slot};
use crate::device::Device;
use crate::device::cuda::{Address, Buffer, CudaDevice, count, device_of, f32_only, kernels};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::nn::Values;
use crate::shape::Layout;
use crate::storage::Storage;
use crate::tensor::Tensor;

const OP: &str = "step";
/// Elements of a block.
const CHUNK: usize = 2048;

/// A mirror of `Entry` in kernels/optim.cu, as of the other structs here.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Entry {
    from: Address,
    value: Address,
    gradient: Address,
    moments: [Address; 2],
    shadow: Address,
    elements: u32,
    block: u32,
    numbers: u32,
    padding: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Numbers {
    step: f32,
    shrink: f32,
    correction: f32,
    fresh: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct StepParams {
    table: Address,
    numbers: Address,
    entries: u32,
    rule: u32,
    decay: f32,
    momentum: f32,
    rates: [f32; 3],
    eps: f32,
}

impl Numbers {
    /// Of step `t`, counted from 1.
    fn new(kind: Kind, t: u64) -> Self {
        match Rule::<f32>::new(kind, t) {
            Rule::Sgd { lr, first, .. } => Self {
                step: lr,
                shrink: 1.0,
                correction: 1.0,
                fresh: f32::from(u8::from(first)),
            },
            Rule::Adam {
                shrink,
                step,
                correction,
                ..
            } => Self {
                step,
                shrink,
                correction,
                fresh: 0.0,
            },
        }
    }
}

/// What an optimiser keeps on the device besides the moments.
pub(super) struct State {
    device: CudaDevice,
    /// One per slot, and the same on the device.
    numbers: Vec<Numbers>,
    numbers_there: Arc<Buffer>,
    /// The table of the last step outside a capture, and the same on the device.
    table: Option<(Vec<u8>, Buffer)>,
    /// The step that was captured last, until it is asked for.
    captured: Option<Captured>,
}

/// A step that a graph replays.
pub(super) struct Captured {
    /// The slots that it steps, and where value and shadow of each lie.
    slots: Vec<(usize, [Address; 2])>,
    /// Where it reads its numbers.
    numbers: Arc<Buffer>,
    table: Buffer,
    /// What the table is to hold, until it does: nothing is copied from the
    /// host during a capture.
    unwritten: Option<Vec<u8>>,
}

impl Captured {
    /// The slots that it steps.
    pub fn stepped(&self) -> impl Iterator<Item = usize> {
        self.slots.iter().map(|&(place, _)| place)
    }
}

impl State {
    fn new(device: &CudaDevice, slots: usize) -> Result<Self> {
        let bytes = slots * size_of::<Numbers>();
        Ok(Self {
            device: device.clone(),
            numbers: vec![Zeroable::zeroed(); slots],
            numbers_there: Arc::new(device.buffer(bytes)?),
            table: None,
            captured: None,
        })
    }

    /// Sets the numbers of one step of each of these slots.
    fn write_numbers(
        &mut self,
        kind: Kind,
        steps: impl Iterator<Item = (usize, u64)>,
    ) -> Result<()> {
        for (slot, t) in steps {
            if let Some(numbers) = self.numbers.get_mut(slot) {
                *numbers = Numbers::new(kind, t);
            }
        }
        let bytes = bytemuck::cast_slice(&self.numbers);
        self.device.write(&self.numbers_there, 0, bytes)
    }

    pub fn place(&self) -> Address {
        self.numbers_there.address()
    }

    pub fn take_captured(&mut self) -> Option<Captured> {
        self.captured.take()
    }

    /// Prepares a replay of `captured`.
    pub fn advance(&mut self, kind: Kind, slots: &[Slot], captured: &mut Captured) -> Result<()> {
        let mut valid = Arc::ptr_eq(&captured.numbers, &self.numbers_there);
        for &(place, addresses) in &captured.slots {
            let Some(slot) = slots.get(place) else {
                return Err(outdated());
            };
            valid &= slot.param.places()? == addresses;
        }
        if !valid {
            return Err(outdated());
        }
        if let Some(bytes) = captured.unwritten.take() {
            self.device.write(&captured.table, 0, &bytes)?;
        }
        let stepped = captured.stepped();
        self.write_numbers(kind, stepped.map(|i| (i, slots[i].steps + 1)))
    }
}

pub(super) fn nothing_captured() -> Error {
    Error::usage(
        "the optimiser took no step in a capture",
        "call Optimizer::step inside CudaDevice::capture",
    )
}

pub(super) fn outdated() -> Error {
    Error::usage(
        "a parameter or the optimiser's state was replaced since the step was captured",
        "capture it again",
    )
}

/// Whether nothing else holds the storage of `t`.
pub(super) fn is_sole(t: &Tensor) -> bool {
    matches!(t.storage(), Storage::Cuda(_, buffer) if Arc::strong_count(buffer) == 1)
}

/// Updates `values` and the slots that belong to them, whose places among all
/// `slots` are `places`, with contiguous gradients.
pub(super) fn step(
    kind: Kind,
    active: Vec<(&mut Slot, Tensor)>,
    values: Vec<Values>,
    places: &[usize],
    slots: usize,
    state: &mut Option<State>,
) -> Result<()> {
    let mut operands: Vec<&Tensor> = values.iter().map(|v| &*v.value).collect();
    operands.extend(active.iter().map(|(_, gradient)| gradient));
    operands.extend(active.iter().flat_map(|(slot, _)| &slot.moments));
    f32_only(OP, &operands)?;
    operands.extend(values.iter().filter_map(|v| v.shadow.as_deref()));
    let device = device_of(OP, &operands)?;
    let capturing = device.is_capturing();
    if state.as_ref().is_none_or(|s| s.device != device) {
        *state = Some(State::new(&device, slots)?);
    }
    let Some(state) = state else {
        return Err(Error::op(OP, "internal: no state on the device"));
    };

    let mut entries: Vec<Entry> = Vec::with_capacity(active.len());
    let mut blocks = 0;
    let mut steps = Vec::with_capacity(active.len());
    let mut moved: Vec<[Option<Tensor>; 2]> = Vec::with_capacity(active.len());
    let mut lie = Vec::with_capacity(active.len());
    let mut stepped = Vec::with_capacity(active.len());
    for (((slot, gradient), held), &place) in active.into_iter().zip(&values).zip(places) {
        let value = &*held.value;
        let kept = kind.moments().len();
        let settled = value.layout().is_contiguous() && slot.moments.len() == kept;
        if capturing && !settled {
            let problem = format!("the first step of {} is under capture", slot.name);
            return Err(Error::op(OP, format!("{problem}; take one step before")));
        }
        if slot.moments.is_empty() {
            let on = Device::Cuda(device.clone());
            let zeros = || Tensor::full_on(0.0, value.shape(), DType::F32, &on);
            slot.moments = (0..kept).map(|_| zeros()).collect::<Result<_>>()?;
        }
        let from = value.detach().to_format(crate::shape::Format::Contiguous)?;
        // What else holds the values must not see them change, except for the
        // tape of a step under capture: a graph needs its addresses.
        let alone = value.layout().is_contiguous() && is_sole_besides(&from);
        let fresh = |dtype| device.empty(Layout::contiguous(*from.layout().shape()), dtype);
        let to = match capturing || alone {
            true => None,
            false => Some(fresh(DType::F32)?),
        };
        let shadow_to = match held.shadow.as_deref() {
            Some(shadow) if !capturing && !is_sole(shadow) => Some(fresh(DType::BF16)?),
            _ => None,
        };
        let shadow = shadow_to.as_ref().or(held.shadow.as_deref());
        let shadow = shadow.map(|s| s.address(OP)).transpose()?;
        let shadow = shadow.unwrap_or_default();
        lie.push((place, [value.address(OP)?, shadow]));
        let mut moments = [Address::default(); 2];
        for (to, moment) in moments.iter_mut().zip(&slot.moments) {
            *to = moment.address(OP)?;
        }
        let elements = from.elements();
        if elements > 0 {
            entries.push(Entry {
                from: from.address(OP)?,
                value: to.as_ref().unwrap_or(&from).address(OP)?,
                gradient: gradient.address(OP)?,
                moments,
                shadow,
                elements: count(OP, elements)?,
                block: count(OP, blocks)?,
                numbers: count(OP, place)?,
                padding: 0,
            });
            blocks += elements.div_ceil(CHUNK);
        }
        steps.push((place, slot.steps + 1));
        moved.push([to, shadow_to]);
        // The gradient is kept until the launch was asked for.
        stepped.push((slot, gradient));
    }

    let bytes: Vec<u8> = bytemuck::cast_slice(&entries).to_vec();
    let table = if capturing {
        let table = device.buffer(bytes.len())?;
        let address = table.address();
        state.captured = Some(Captured {
            slots: lie,
            numbers: state.numbers_there.clone(),
            table,
            unwritten: Some(bytes),
        });
        address
    } else {
        state.write_numbers(kind, steps.iter().copied())?;
        // Over the last one, so that it does not wander about and with it everything that is
        // allocated after it.
        match &mut state.table {
            Some((held, there)) if held.len() == bytes.len() => {
                if *held != bytes {
                    device.write(there, 0, &bytes)?;
                    *held = bytes;
                }
                there.address()
            }
            _ => {
                let there = device.upload(&bytes)?;
                let address = there.address();
                state.table = Some((bytes, there));
                address
            }
        }
    };
    let params = StepParams::new(kind, table, state, entries.len())?;
    let kernel = &kernels::EOSIN_STEP_FORWARD_F32;
    device.launch(kernel, [blocks, 1, 1], 0, &params)?;
    for ((slot, _), (held, [value, shadow])) in
        stepped.into_iter().zip(values.into_iter().zip(moved))
    {
        if let Some(value) = value {
            *held.value = value;
        }
        if let (Some(kept), Some(shadow)) = (held.shadow, shadow) {
            *kept = shadow;
        }
        if !capturing {
            slot.steps += 1;
        }
    }
    Ok(())
}

/// Whether only the parameter holds the storage that `view` is a view of.
fn is_sole_besides(view: &Tensor) -> bool {
    matches!(view.storage(), Storage::Cuda(_, buffer) if Arc::strong_count(buffer) == 2)
}

impl StepParams {
    fn new(kind: Kind, table: Address, state: &State, entries: usize) -> Result<Self> {
        let mut params = Self {
            table,
            numbers: state.numbers_there.address(),
            entries: count(OP, entries)?,
            rule: 3,
            decay: 0.0,
            momentum: 0.0,
            rates: [0.0; 3],
            eps: 0.0,
        };
        // What does not depend on the step is that of any.
        match Rule::<f32>::new(kind, 1) {
            Rule::Sgd {
                decay, momentum, ..
            } => {
                (params.decay, params.momentum) = (decay, momentum);
                params.rule = match kind {
                    Kind::Sgd(Sgd { nesterov: true, .. }) => 2,
                    _ => u32::from(momentum != 0.0),
                };
            }
            Rule::Adam {
                decay, rates, eps, ..
            } => (params.decay, params.rates, params.eps) = (decay, rates, eps),
        }
        Ok(params)
    }
}
