//! A step as a timeline in Chrome's trace event format (Google, "Trace Event
//! Format"): complete events, times in microseconds. Steps hold phases, phases
//! hold gradient rules, and those hold operators.

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::ops::Operand;
use crate::profile::{Call, Profile, Span, Stage};

/// Tracks.
const HOST: u32 = 1;
const DEVICE: u32 = 2;

/// The bytes of the file.
///
/// # Errors
/// None in practice; JSON is made.
pub fn json(step: &Profile, title: &str) -> Result<Vec<u8>> {
    let mut events = vec![named("process_name", HOST, title), thread(HOST, "host")];
    events.push(event("step", "step", HOST, step.host, json!({})));
    if let Some(span) = step.device {
        events.push(thread(DEVICE, "device"));
        events.push(event("step", "step", DEVICE, span, json!({})));
    }
    // Of spans that start together viewers nest the later events: outer first.
    let mut stages: Vec<&Stage> = step.stages.iter().collect();
    stages.sort_by(|a, b| (a.host.start.cmp(&b.host.start)).then(b.host.end.cmp(&a.host.end)));
    for stage in stages {
        let (name, category) = match stage.gradient_of {
            Some(op) => (format!("gradient of {op}"), "rule"),
            None => (stage.phase.name().to_owned(), "phase"),
        };
        events.push(event(&name, category, HOST, stage.host, json!({})));
        if let Some(span) = stage.device {
            events.push(event(&name, category, DEVICE, span, json!({})));
        }
    }
    for call in &step.calls {
        let arguments = arguments(call);
        if let Some(span) = call.device {
            events.push(event(call.op, "operator", DEVICE, span, arguments.clone()));
        }
        events.push(event(call.op, "operator", HOST, call.host, arguments));
    }
    let whole = json!({ "displayTimeUnit": "ms", "traceEvents": events });
    serde_json::to_vec(&whole)
        .map_err(|e| Error::usage(format!("no JSON: {e}"), "leave out --trace"))
}

fn named(what: &str, track: u32, name: &str) -> Value {
    json!({ "name": what, "ph": "M", "pid": 1, "tid": track, "args": { "name": name } })
}

fn thread(track: u32, name: &str) -> Value {
    named("thread_name", track, name)
}

fn event(name: &str, category: &str, track: u32, span: Span, arguments: Value) -> Value {
    let microseconds = |d: std::time::Duration| d.as_nanos() as f64 * 1e-3;
    json!({
        "name": name,
        "cat": category,
        "ph": "X",
        "pid": 1,
        "tid": track,
        "ts": microseconds(span.start),
        "dur": microseconds(span.length()),
        "args": arguments,
    })
}

fn arguments(call: &Call) -> Value {
    let shown = |operands: &[Operand]| -> Vec<String> {
        let one = |t: &Operand| format!("{} {:?}", t.dtype(), t.shape());
        operands.iter().map(one).collect()
    };
    json!({
        "phase": call.phase.name(),
        "inputs": shown(&call.inputs),
        "outputs": shown(&call.outputs),
        "flops": call.cost.flops,
        "bytes": call.cost.bytes,
        "kernels": call.launches,
    })
}
