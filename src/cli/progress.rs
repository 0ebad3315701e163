//! Progress of long work on a terminal. Nothing is written to a pipe or a file, or with `--quiet`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::text::escape;
use crate::lock::lock;

/// Time between two updates of the line.
const INTERVAL: Duration = Duration::from_millis(100);

/// Line of work without a known total.
const COUNTING: &str = "{spinner} {elapsed:>3} {wide_msg}";

/// Line of work with a known total.
const MEASURED: &str = "{spinner} {elapsed:>3} [{bar:24}] {percent:>3}% {wide_msg}";

/// Flag of the commands that show progress.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Flags {
    /// Hide the progress line; it is shown on terminals only
    #[arg(long, short)]
    quiet: bool,
}

/// The state of a piece of work at one moment.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// The part that is done and the whole, in units of the work; `None` if the whole is not known.
    pub(super) done: Option<(u64, u64)>,
    /// Counts or a phase, in words.
    pub(super) text: String,
}

/// A progress line on standard error. It disappears when the value is dropped.
#[derive(Debug)]
pub(super) struct Progress {
    subject: Arc<Mutex<String>>,
    running: Option<Running>,
}

/// The thread that updates the line, and the flag that ends it.
#[derive(Debug)]
struct Running {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Progress {
    /// Shows progress until the value is dropped. A thread calls `step` ten times per second; where nothing is shown, it is never called.
    pub(super) fn start(flags: Flags, mut step: impl FnMut() -> Step + Send + 'static) -> Self {
        let subject = Arc::new(Mutex::new(String::new()));
        let target = if flags.quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(None, target);
        if bar.is_hidden() {
            return Self { subject, running: None };
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, shown) = (Arc::clone(&stop), Arc::clone(&subject));
        let thread = thread::spawn(move || {
            let (counting, measured) = styles();
            bar.set_style(counting.clone());
            while !stopped.load(Ordering::Acquire) {
                let Step { done, text } = step();
                match done {
                    Some((position, total)) => {
                        bar.set_style(measured.clone());
                        bar.set_length(total);
                        bar.set_position(position);
                    }
                    None => bar.set_style(counting.clone()),
                }
                let subject = lock(&shown).clone();
                // The subject can be a name from an image.
                let separator = if subject.is_empty() { "" } else { ": " };
                bar.set_message(format!("{}{separator}{text}", escape(&subject)));
                bar.tick();
                thread::park_timeout(INTERVAL);
            }
            bar.finish_and_clear();
        });
        Self { subject, running: Some(Running { stop, thread }) }
    }

    /// Sets the name of the object that is being processed, in front of the step's text.
    pub(super) fn set_subject(&self, subject: impl Into<String>) {
        *lock(&self.subject) = subject.into();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(Running { stop, thread }) = self.running.take() {
            stop.store(true, Ordering::Release);
            thread.thread().unpark();
            // A panic in the thread only costs the line.
            let _ = thread.join();
        }
    }
}

/// Returns the styles of work without and with a known total. Both fill one line of the terminal and cut longer text.
fn styles() -> (ProgressStyle, ProgressStyle) {
    let style =
        |template: &str| ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let counting = style(COUNTING).tick_chars("|/-\\ ");
    let measured = style(MEASURED);
    (counting, measured.tick_chars("|/-\\ ").progress_chars("=> "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_calls_no_step() {
        let (send, receive) = std::sync::mpsc::channel();
        let progress = Progress::start(Flags { quiet: true }, move || {
            send.send(()).unwrap();
            Step::default()
        });
        progress.set_subject("nothing");
        drop(progress);
        // The sender was dropped without a message.
        assert_eq!(receive.recv(), Err(std::sync::mpsc::RecvError));
    }

    #[test]
    fn the_templates_are_valid() {
        for template in [COUNTING, MEASURED] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
