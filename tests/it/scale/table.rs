//! Measured values beside their budgets.

use std::time::Duration;

/// A table of measurements.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<[String; 4]>,
    missed: usize,
}

impl Table {
    /// A measurement with a bar.
    pub(crate) fn row(&mut self, what: &str, measured: String, bar: &str, ok: bool) {
        self.missed += usize::from(!ok);
        self.push([what.to_owned(), measured, bar.to_owned(), if ok { "ok" } else { "NOT" }.to_owned()]);
    }

    /// A measurement that is only noted.
    pub(crate) fn note(&mut self, what: &str, measured: String) {
        self.push([what.to_owned(), measured, String::new(), String::new()]);
    }

    fn push(&mut self, row: [String; 4]) {
        println!("{:<72} | {:>22} | {:>16} | {}", row[0], row[1], row[2], row[3]);
        self.rows.push(row);
    }

    /// Prints all of it once more, and says how many bars were missed.
    pub(crate) fn finish(self) -> usize {
        println!("\n{:<72} | {:>22} | {:>16} |", "what", "measured", "bar");
        println!("{:-<73}|{:-<24}|{:-<18}|----", "", "", "");
        for [what, measured, bar, ok] in &self.rows {
            println!("{what:<72} | {measured:>22} | {bar:>16} | {ok}");
        }
        println!("{} bars missed", self.missed);
        self.missed
    }
}

pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

pub(crate) fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

pub(crate) fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// The time that `share` of all are below; the greatest of few.
pub(crate) fn quantile(times: &[Duration], share: f64) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or_default()
}
