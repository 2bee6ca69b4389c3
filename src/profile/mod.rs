//! What operators do on a thread while somebody watches: calls, times, launches.
//!
//! [`observe`] watches the operators of one closure on the calling thread. It is
//! no global state: other threads are not watched, and with nobody watching an
//! operator pays for one look at a thread-local flag. Every piece of work of an
//! operator runs inside `call`; composites, which are made of other
//! operators, appear as what they are made of. With the feature `nvtx` the same
//! places open NVTX ranges, for NVIDIA's own profilers.
//!
//! On a CUDA device events stand at both ends of every call, so the times there
//! are those of the device and include the gaps between the call's launches.
//! Nothing is recorded into a captured step: observe an eager one.

#[cfg(feature = "slides")]
pub mod workload;

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use crate::device::Device;
use crate::device::cuda::driver::Event;
use crate::error::{Error, Result};
use crate::ops::{Cost, Operand, cost};
use crate::tensor::Tensor;

/// Which part of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    #[default]
    Forward,
    /// Inside [`crate::autograd::grad`].
    Backward,
    /// Clipping and the optimiser.
    Update,
}

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Backward => "backward",
            Self::Update => "update",
        }
    }
}

/// A stretch of time since the observation began.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Span {
    pub start: Duration,
    pub end: Duration,
}

impl Span {
    pub fn length(self) -> Duration {
        self.end.saturating_sub(self.start)
    }
}

/// One piece of an operator's work.
#[derive(Clone, Debug)]
pub struct Call {
    /// As in [`crate::ops::REGISTRY`], or the name of its kernels for what is
    /// no operator (`step`, `clip_grad_norm`, `copy` ..).
    pub op: &'static str,
    pub phase: Phase,
    /// The operator whose gradient rule asked for it.
    pub gradient_of: Option<&'static str>,
    /// The place of the call that this one is part of, such as a change of
    /// format inside a convolution.
    pub parent: Option<usize>,
    pub inputs: Vec<Operand>,
    /// None if it failed.
    pub outputs: Vec<Operand>,
    /// The least work, without that of its parts.
    pub cost: Cost,
    /// On the host's clock. On the CPU, the work; on CUDA, asking for it.
    pub host: Span,
    /// On the device's clock.
    pub device: Option<Span>,
    /// Kernels in the order of their launches, without those of its parts.
    pub launches: Vec<&'static str>,
}

impl Call {
    /// Where the work was done.
    pub fn span(&self) -> Span {
        self.device.unwrap_or(self.host)
    }
}

/// One stretch of a phase, or of one gradient rule inside the backward phase.
#[derive(Clone, Copy, Debug)]
pub struct Stage {
    pub phase: Phase,
    pub gradient_of: Option<&'static str>,
    pub host: Span,
    pub device: Option<Span>,
}

/// What [`observe`] saw.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// In the order of their starts.
    pub calls: Vec<Call>,
    /// In the order of their ends.
    pub stages: Vec<Stage>,
    /// From the first to the last moment, the wait for the device included.
    pub host: Span,
    pub device: Option<Span>,
    /// Kernels that were launched in the name of no operator.
    pub unattributed: Vec<&'static str>,
}

impl Profile {
    /// The least work of all calls. Operators that run inside another one, such
    /// as changes of format, count as the work that they are.
    pub fn cost(&self) -> Cost {
        self.calls.iter().map(|call| call.cost).sum()
    }

    pub fn launches(&self) -> usize {
        let launches: usize = self.calls.iter().map(|call| call.launches.len()).sum();
        launches + self.unattributed.len()
    }

    /// The time of each call without that of its parts.
    pub fn own_times(&self) -> Vec<Duration> {
        let mut own: Vec<Duration> = self.calls.iter().map(|c| c.span().length()).collect();
        for call in &self.calls {
            if let Some(parent) = call.parent.and_then(|at| own.get_mut(at)) {
                *parent = parent.saturating_sub(call.span().length());
            }
        }
        own
    }
}

/// What a piece of work results in.
pub(crate) trait Outputs {
    fn outputs(&self) -> Vec<Operand>;
}

impl Outputs for Tensor {
    fn outputs(&self) -> Vec<Operand> {
        vec![self.into()]
    }
}

impl Outputs for Vec<Tensor> {
    fn outputs(&self) -> Vec<Operand> {
        self.iter().map(Operand::from).collect()
    }
}

impl<const N: usize> Outputs for [Tensor; N] {
    fn outputs(&self) -> Vec<Operand> {
        self.iter().map(Operand::from).collect()
    }
}

impl<T: Outputs, U: Outputs> Outputs for (T, U) {
    fn outputs(&self) -> Vec<Operand> {
        let mut all = self.0.outputs();
        all.extend(self.1.outputs());
        all
    }
}

impl<T: Outputs> Outputs for Option<T> {
    fn outputs(&self) -> Vec<Operand> {
        self.as_ref().map(Outputs::outputs).unwrap_or_default()
    }
}

thread_local! {
    static WATCHED: Cell<bool> = const { Cell::new(false) };
    static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) };
}

struct Recorder {
    device: Device,
    begun: Instant,
    /// At each point of interest, the end of the stretch before it and the start
    /// of the one after it: an event can be used once.
    marks: Vec<[Event; 2]>,
    calls: Vec<Call>,
    stages: Vec<Stage>,
    /// For calls and stages, the marks of start and end.
    call_marks: Vec<[Option<usize>; 2]>,
    stage_marks: Vec<[Option<usize>; 2]>,
    /// The calls that are under way, outermost first.
    open: Vec<usize>,
    phase: Phase,
    gradient_of: Option<&'static str>,
    unattributed: Vec<&'static str>,
    /// The first refusal of the device to record an event.
    failed: Option<Error>,
}

impl Recorder {
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn mark(&mut self) -> Option<usize> {
        let Device::Cuda(device) = &self.device else {
            return None;
        };
        if device.is_capturing() {
            return None;
        }
        let both = device.driver().event();
        match both.and_then(|first| Ok([first, device.driver().event()?])) {
            Ok(mark) => {
                self.marks.push(mark);
                Some(self.marks.len() - 1)
            }
            Err(error) => {
                self.failed.get_or_insert(error);
                None
            }
        }
    }

    fn begin(&mut self, op: &'static str, inputs: Vec<Operand>) -> usize {
        let at = self.calls.len();
        let start = self.mark();
        let host = Span {
            start: self.now(),
            ..Span::default()
        };
        self.calls.push(Call {
            op,
            phase: self.phase,
            gradient_of: self.gradient_of,
            parent: self.open.last().copied(),
            inputs,
            outputs: Vec::new(),
            cost: Cost::default(),
            host,
            device: None,
            launches: Vec::new(),
        });
        self.call_marks.push([start, None]);
        self.open.push(at);
        at
    }

    fn end(&mut self, at: usize, outputs: Vec<Operand>) {
        self.open.pop();
        let (now, end) = (self.now(), self.mark());
        self.call_marks[at][1] = end;
        let call = &mut self.calls[at];
        call.host.end = now;
        call.cost = cost(call.op, &call.inputs, &outputs).unwrap_or_default();
        call.outputs = outputs;
    }

    /// Waits for the device and gives each call its time there.
    fn finish(mut self) -> Result<Profile> {
        self.mark();
        let mut at = vec![Duration::ZERO];
        let mut device = None;
        if let Device::Cuda(cuda) = &self.device {
            let driver = cuda.driver();
            let between = |from, to| -> Result<Duration> {
                let milliseconds = f64::from(driver.elapsed(from, to)?);
                Ok(Duration::from_secs_f64(milliseconds.max(0.0) / 1e3))
            };
            for pair in self.marks.windows(2) {
                let before = at[at.len() - 1];
                at.push(before + between(pair[0][1], pair[1][0])?);
            }
            if let [[first, _], .., [_, last]] = self.marks[..] {
                between(first, last)?;
                device = Some([Some(0), Some(at.len() - 1)]);
            }
        }
        if let Some(error) = self.failed {
            return Err(error);
        }
        let span = |marks: &[Option<usize>; 2]| match *marks {
            [Some(start), Some(end)] => Some(Span {
                start: *at.get(start)?,
                end: *at.get(end)?,
            }),
            _ => None,
        };
        for (call, marks) in self.calls.iter_mut().zip(&self.call_marks) {
            call.device = span(marks);
        }
        for (stage, marks) in self.stages.iter_mut().zip(&self.stage_marks) {
            stage.device = span(marks);
        }
        Ok(Profile {
            calls: self.calls,
            stages: self.stages,
            host: Span {
                start: Duration::ZERO,
                end: self.begun.elapsed(),
            },
            device: device.as_ref().and_then(span),
            unattributed: self.unattributed,
        })
    }
}

fn with<R>(f: impl FnOnce(&mut Recorder) -> R) -> Option<R> {
    RECORDER.with_borrow_mut(|recorder| recorder.as_mut().map(f))
}

/// Runs `f` and says what operators did in it on this thread; on CUDA, of the
/// stream `device`, which is waited for at the end.
///
/// # Errors
/// What `f` returns; an observation inside an observation; a device that
/// records no events.
pub fn observe<R>(device: &Device, f: impl FnOnce() -> Result<R>) -> Result<(R, Profile)> {
    /// Ends the watch whatever happens to `f`.
    struct Watch;
    impl Drop for Watch {
        fn drop(&mut self) {
            WATCHED.set(false);
            RECORDER.set(None);
        }
    }
    if WATCHED.get() {
        let problem = "this thread is being observed already";
        return Err(Error::op("profile", problem));
    }
    let mut recorder = Recorder {
        device: device.clone(),
        begun: Instant::now(),
        marks: Vec::new(),
        calls: Vec::new(),
        stages: Vec::new(),
        call_marks: Vec::new(),
        stage_marks: Vec::new(),
        open: Vec::new(),
        phase: Phase::default(),
        gradient_of: None,
        unattributed: Vec::new(),
        failed: None,
    };
    recorder.mark();
    let _watch = Watch;
    RECORDER.set(Some(recorder));
    WATCHED.set(true);
    let value = f()?;
    let recorder = RECORDER.take();
    let recorder = recorder.ok_or_else(|| Error::op("profile", "internal: no recorder"))?;
    Ok((value, recorder.finish()?))
}

/// Whether somebody watches this thread.
pub(crate) fn is_watching() -> bool {
    WATCHED.get()
}

/// Runs a piece of work of `op`, which reads `inputs`.
pub(crate) fn call<R: Outputs>(
    op: &'static str,
    inputs: &[&Tensor],
    work: impl FnOnce() -> Result<R>,
) -> Result<R> {
    let _range = nvtx::range(op);
    if !WATCHED.get() {
        return work();
    }
    let inputs = inputs.iter().map(|&t| t.into()).collect();
    watched(op, inputs, work, |result| result.outputs())
}

/// [`call`] for work that changes its operands in place, or some of whose
/// operands are at hand in another form: `operands` gives what it reads and
/// writes.
pub(crate) fn call_in_place<R>(
    op: &'static str,
    operands: impl FnOnce() -> [Vec<Operand>; 2],
    work: impl FnOnce() -> Result<R>,
) -> Result<R> {
    let _range = nvtx::range(op);
    if !WATCHED.get() {
        return work();
    }
    let [inputs, outputs] = operands();
    watched(op, inputs, work, |_| outputs)
}

fn watched<R>(
    op: &'static str,
    inputs: Vec<Operand>,
    work: impl FnOnce() -> Result<R>,
    outputs: impl FnOnce(&R) -> Vec<Operand>,
) -> Result<R> {
    let at = with(|recorder| recorder.begin(op, inputs));
    let result = work();
    if let Some(at) = at {
        let outputs = result.as_ref().map(outputs).unwrap_or_default();
        with(|recorder| recorder.end(at, outputs));
    }
    result
}

/// Runs a part of a step; a phase inside another one is its own.
pub(crate) fn phase<R>(phase: Phase, work: impl FnOnce() -> Result<R>) -> Result<R> {
    stage(phase.name(), |recorder| recorder.phase = phase, work)
}

/// Runs the gradient rule of `op`.
pub(crate) fn gradient_of<R>(op: &'static str, work: impl FnOnce() -> Result<R>) -> Result<R> {
    stage(op, |recorder| recorder.gradient_of = Some(op), work)
}

fn stage<R>(
    name: &'static str,
    enter: impl FnOnce(&mut Recorder),
    work: impl FnOnce() -> Result<R>,
) -> Result<R> {
    let _range = nvtx::range(name);
    if !WATCHED.get() {
        return work();
    }
    let opened = with(|recorder| {
        let outside = (recorder.phase, recorder.gradient_of);
        enter(recorder);
        (outside, recorder.mark(), recorder.now())
    });
    let result = work();
    if let Some((outside, first, start)) = opened {
        with(|recorder| {
            let (end, last) = (recorder.now(), recorder.mark());
            recorder.stages.push(Stage {
                phase: recorder.phase,
                gradient_of: recorder.gradient_of,
                host: Span { start, end },
                device: None,
            });
            recorder.stage_marks.push([first, last]);
            (recorder.phase, recorder.gradient_of) = outside;
        });
    }
    result
}

/// A kernel is launched.
pub(crate) fn launched(kernel: &'static str) {
    if !WATCHED.get() {
        return;
    }
    with(|recorder| match recorder.open.last() {
        Some(&at) => recorder.calls[at].launches.push(kernel),
        None => recorder.unattributed.push(kernel),
    });
}

/// Ranges for NVIDIA's profilers. Their library is loaded at run time; without
/// it, or without the feature, a range is nothing.
mod nvtx {
    /// Open until it is dropped, unless the library is missing.
    pub struct Range {
        #[cfg(feature = "nvtx")]
        open: bool,
    }

    #[cfg(not(feature = "nvtx"))]
    pub fn range(_: &str) -> Range {
        Range {}
    }

    #[cfg(feature = "nvtx")]
    pub fn range(name: &str) -> Range {
        use cudarc::nvtx::{result, sys};
        use std::sync::OnceLock;
        type Push = unsafe extern "C" fn(*const std::ffi::c_char) -> std::ffi::c_int;
        type Pop = unsafe extern "C" fn() -> std::ffi::c_int;
        static PRESENT: OnceLock<bool> = OnceLock::new();
        // SAFETY: loading the library runs no code of it but initialisers, and
        // the symbols are looked up, not called.
        let open = *PRESENT.get_or_init(|| unsafe {
            sys::is_culib_present()
                && sys::culib().get::<Push>(b"nvtxRangePushA").is_ok()
                && sys::culib().get::<Pop>(b"nvtxRangePop").is_ok()
        });
        if open {
            result::range_push(name);
        }
        Range { open }
    }

    #[cfg(feature = "nvtx")]
    impl Drop for Range {
        fn drop(&mut self) {
            if self.open {
                cudarc::nvtx::result::range_pop();
            }
        }
    }
}
