//! Progress on a terminal, results on standard output, signals.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::error::{Error, Result};
use crate::train::progress::Progress;

/// Bars on a terminal; a line per stage elsewhere, so that logs stay short.
pub struct Console {
    quiet: bool,
    terminal: bool,
    bar: Mutex<Option<ProgressBar>>,
}

impl Console {
    pub fn new(quiet: bool) -> Self {
        Self {
            quiet,
            terminal: std::io::stderr().is_terminal(),
            bar: Mutex::new(None),
        }
    }

    fn with_bar(&self, f: impl FnOnce(&mut Option<ProgressBar>)) {
        f(&mut self.bar.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Progress for Console {
    fn begin(&self, stage: &str, total: usize) {
        if self.quiet {
            return;
        }
        if !self.terminal {
            eprintln!("{stage}");
            return;
        }
        let template = if total > 0 {
            "{msg:32} [{bar:30}] {pos}/{len} {eta} {prefix}"
        } else {
            "{msg:32} {spinner} {prefix}"
        };
        let bar = ProgressBar::with_draw_target(
            (total > 0).then_some(total as u64),
            ProgressDrawTarget::stderr(),
        );
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(stage.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        self.with_bar(|held| *held = Some(bar));
    }

    fn at(&self, done: usize, detail: &str) {
        self.with_bar(|held| {
            if let Some(bar) = held {
                match bar.length() {
                    Some(_) => {
                        bar.set_position(done as u64);
                        bar.set_prefix(detail.to_owned());
                    }
                    None => bar.set_prefix(format!("epoch {done} {detail}")),
                }
            }
        });
    }

    fn note(&self, message: &str) {
        if self.quiet {
            return;
        }
        self.with_bar(|held| match held {
            Some(bar) => bar.suspend(|| eprintln!("{message}")),
            None => eprintln!("{message}"),
        });
    }

    fn end(&self) {
        self.with_bar(|held| {
            if let Some(bar) = held.take() {
                bar.finish();
            }
        });
    }
}

static STOP: AtomicBool = AtomicBool::new(false);

/// The flag that Ctrl-C and SIGTERM raise; a second signal ends the process.
pub fn stop_on_signal() -> &'static AtomicBool {
    // Without a handler the signal ends the process, which loses nothing: all
    // files appear whole.
    let _ = ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("stopping at the next safe point; once more to stop now");
    });
    &STOP
}

/// [`print`] with a line for each thing that was left out.
pub fn print_with_skipped<S: std::fmt::Display>(
    json: bool,
    value: &impl serde::Serialize,
    mut text: String,
    skipped: impl IntoIterator<Item = S>,
) -> Result<()> {
    for one in skipped {
        text += &format!("\nskipped {one}");
    }
    print(json, value, &text)
}

/// How long a training went, as the summaries of runs say it.
pub fn epochs(trained: usize, kept: usize) -> String {
    format!("epochs             {trained}, kept {}", kept + 1)
}

/// Prints a result as JSON or as text.
pub fn print<T: serde::Serialize>(json: bool, value: &T, text: &str) -> Result<()> {
    let text = if json {
        serde_json::to_string_pretty(value)
            .map_err(|e| Error::usage(format!("no JSON: {e}"), "leave out --json"))?
    } else {
        text.trim_end().to_owned()
    };
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        // The reader went away, as `head` does: nothing is wrong.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(e) => Err(Error::io("write", "standard output", e)),
        Ok(()) => Ok(()),
    }
}
