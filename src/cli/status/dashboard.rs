//! What `fimd status --watch` shows. Pure.

use indicatif::HumanBytes;

use super::{complaints, experts, latency, line, model, percent, speed, state};
use crate::daemon::Status;

/// The heights of a sparkline.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The status in a few lines that stay where they are.
pub(super) fn dashboard(status: &Status) -> String {
    let (state, style) = state(status);
    let mut text = line("state", &format!("{style}{state}{style:#}"));
    for (name, value) in model(status) {
        text += &line(name, &value);
    }
    let usage = &status.engine.usage;
    let cache = HumanBytes(usage.kv_bytes + usage.state_bytes);
    let memory = HumanBytes(status.memory_bytes);
    text += &line("memory", &format!("{memory}, cache {cache} of {}", HumanBytes(status.cache_bytes_max)));
    text += &experts(status).map_or_else(String::new, |experts| line("experts", &experts));
    text += &line("speed", &speed(status).unwrap_or_else(|| "nothing computed yet".into()));
    text += &line("latency", &latency(status));
    text += &line("", &sparkline(&status.statistics.latest_ms));
    text += &accepted(status);
    let editors: Vec<&str> = status.editors.iter().map(|connected| &*connected.editor.name).collect();
    text += &line("editors", &editors.join(", "));
    text + &complaints(status)
}

/// Accepted suggestions: of all languages, then of each.
fn accepted(status: &Status) -> String {
    let statistics = &status.statistics;
    let all = format!("{} ({})", statistics.counters.accepted, percent(statistics.acceptance));
    let languages = statistics.languages.iter().map(|(language, fate)| {
        let share = fate.accepted as f64 / fate.offered.max(1) as f64;
        line("", &format!("{language}: {} of {} ({})", fate.accepted, fate.offered, percent(share.min(1.0))))
    });
    line("accepted", &all) + &languages.collect::<String>()
}

/// A bar for each value, the largest of which has full height.
fn sparkline(values: &[f64]) -> String {
    let largest = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let height = |value: f64| (value / largest * (BARS.len() - 1) as f64).round() as usize;
    values.iter().map(|&value| BARS[height(value).min(BARS.len() - 1)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_value_of_a_sparkline_has_full_height() {
        for (values, expected) in [
            (&[][..], ""),
            (&[0.0, 0.0], "▁▁"),
            (&[5.0], "█"),
            (&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], "▁▂▃▄▅▆▇█"),
            (&[1000.0, 1.0, 500.0], "█▁▅"),
        ] {
            assert_eq!(sparkline(values), expected, "{values:?}");
        }
    }
}
