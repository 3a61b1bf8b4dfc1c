//! A plot of the runs: latency, and tokens evaluated per key. Pure.

use std::fmt::Write as _;

use super::report::Run;

/// Colour-blind-safe palette (Okabe and Ito).
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#000000"];
const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 360.0;
/// Vertical extent of both panels.
const TOP: f64 = 40.0;
const BOTTOM: f64 = 270.0;

/// A panel with its own axes.
struct Panel {
    left: f64,
    right: f64,
}

const TIMES: Panel = Panel { left: 60.0, right: 450.0 };
const TOKENS: Panel = Panel { left: 540.0, right: 930.0 };

/// Maps a value to `[0, 1]` on an axis.
type Scale<'a> = &'a dyn Fn(f64) -> f64;

/// An SVG of two panels: the cumulative distribution of latency, and the prompt tokens evaluated for each keystroke,
/// where the server reports them; keys served without the model cost 0.
pub fn svg(runs: &[Run]) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n"
    );
    times(&mut svg, runs);
    tokens(&mut svg, runs);
    for (i, run) in runs.iter().enumerate() {
        legend(&mut svg, i, &run.title());
    }
    svg + "</svg>\n"
}

/// An SVG of curves through points of two shares, named below.
pub fn shares(title: &str, below: &str, curves: &[(String, Vec<(f64, f64)>)]) -> String {
    let height = 322.0 + 20.0 * curves.len().div_ceil(3) as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    let panel = Panel { left: 60.0, right: 930.0 };
    panel.frame(&mut svg, title, below);
    for percent in [0, 25, 50, 75, 100] {
        let share = f64::from(percent) / 100.0;
        panel.tick_below(&mut svg, share, &format!("{percent} %"));
        panel.tick_beside(&mut svg, share, &format!("{percent} %"));
    }
    for (i, (name, points)) in curves.iter().enumerate() {
        let path: Vec<String> = points.iter().map(|&(along, up)| panel.point(along, up)).collect();
        let _ = writeln!(
            svg,
            "<path d=\"M{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>",
            path.join("L"),
            colour(i)
        );
        legend(&mut svg, i, name);
    }
    svg + "</svg>\n"
}

fn legend(svg: &mut String, i: usize, name: &str) {
    let (x, y) = (60.0 + 300.0 * (i % 3) as f64, 322.0 + 20.0 * (i / 3) as f64);
    let colour = colour(i);
    let _ = writeln!(svg, "<rect x=\"{x}\" y=\"{}\" width=\"14\" height=\"4\" fill=\"{colour}\"/>", y - 6.0);
    text(svg, x + 20.0, y, "start", name);
}

fn times(svg: &mut String, runs: &[Run]) {
    let answers = |run: &Run| {
        let mut ms: Vec<f64> = run.keystrokes.iter().filter_map(|keystroke| keystroke.answer_ms).collect();
        ms.sort_by(f64::total_cmp);
        ms
    };
    let all: Vec<Vec<f64>> = runs.iter().map(answers).collect();
    let values = || all.iter().flatten().copied();
    let low = decade(values().fold(1.0, f64::min)).floor().max(-2.0);
    let high = decade(values().fold(10.0, f64::max)).ceil().max(low + 1.0);
    let along: Scale = &|ms| ((decade(ms) - low) / (high - low)).clamp(0.0, 1.0);
    TIMES.frame(svg, "Answers that came within a time", "ms from key to answer");
    for power in low as i32..=high as i32 {
        let value = 10f64.powi(power);
        TIMES.tick_below(svg, along(value), &value.to_string());
    }
    for percent in [0, 25, 50, 75, 100] {
        TIMES.tick_beside(svg, f64::from(percent) / 100.0, &format!("{percent} %"));
    }
    for (i, ms) in all.iter().enumerate().filter(|(_, ms)| !ms.is_empty()) {
        let mut path = format!("M{}", TIMES.point(along(ms[0]), 0.0));
        for (rank, &ms_now) in ms.iter().enumerate() {
            let share = (rank + 1) as f64 / ms.len() as f64;
            let _ = write!(path, "H{:.1}V{:.1}", TIMES.x(along(ms_now)), y(share));
        }
        let _ = writeln!(
            svg,
            "<path d=\"{path}H{:.1}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>",
            TIMES.right,
            colour(i)
        );
    }
}

fn tokens(svg: &mut String, runs: &[Run]) {
    let costs = |run: &Run| -> Vec<(usize, f64)> {
        let of = |(at, figures): (usize, Option<usize>)| Some((at, figures? as f64));
        let evaluated =
            run.keystrokes.iter().map(|keystroke| keystroke.figures.map(|figures| figures.evaluated));
        evaluated.enumerate().filter_map(of).collect()
    };
    let all: Vec<Vec<(usize, f64)>> = runs.iter().map(costs).collect();
    let longest = runs.iter().map(|run| run.keystrokes.len()).max().unwrap_or(0).max(2) - 1;
    let most = all.iter().flatten().map(|&(_, tokens)| tokens).fold(10.0, f64::max);
    let decades = decade(most + 1.0).ceil();
    let up: Scale = &|tokens| decade(tokens + 1.0) / decades;
    TOKENS.frame(svg, "Prompt tokens evaluated for a key", "keys, in the order they were typed");
    TOKENS.tick_beside(svg, 0.0, "0");
    for power in 0..=decades as i32 {
        let value = 10f64.powi(power);
        if up(value) <= 1.0 {
            TOKENS.tick_beside(svg, up(value), &value.to_string());
        }
    }
    for share in [0.0, 0.5, 1.0] {
        TOKENS.tick_below(svg, share, &format!("{:.0}", 1.0 + share * longest as f64));
    }
    if all.iter().all(Vec::is_empty) {
        text(svg, TOKENS.x(0.5), y(0.5), "middle", "not told by the server");
    }
    for (i, costs) in all.iter().enumerate() {
        for &(at, tokens) in costs {
            let _ = writeln!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2\" fill=\"{}\" fill-opacity=\"0.6\"/>",
                TOKENS.x(at as f64 / longest as f64),
                y(up(tokens)),
                colour(i)
            );
        }
    }
}

impl Panel {
    fn x(&self, share: f64) -> f64 {
        self.left + share * (self.right - self.left)
    }

    fn point(&self, along: f64, up: f64) -> String {
        format!("{:.1},{:.1}", self.x(along), y(up))
    }

    fn frame(&self, svg: &mut String, title: &str, below: &str) {
        let Self { left, right } = self;
        let _ = writeln!(
            svg,
            "<rect x=\"{left}\" y=\"{TOP}\" width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"#888888\"/>",
            right - left,
            BOTTOM - TOP
        );
        text(svg, (left + right) / 2.0, TOP - 14.0, "middle", title);
        text(svg, (left + right) / 2.0, BOTTOM + 34.0, "middle", below);
    }

    fn tick_below(&self, svg: &mut String, along: f64, label: &str) {
        let x = self.x(along);
        line(svg, [x, TOP], [x, BOTTOM]);
        text(svg, x, BOTTOM + 16.0, "middle", label);
    }

    fn tick_beside(&self, svg: &mut String, up: f64, label: &str) {
        line(svg, [self.left, y(up)], [self.right, y(up)]);
        text(svg, self.left - 6.0, y(up) + 4.0, "end", label);
    }
}

fn y(share: f64) -> f64 {
    BOTTOM - share * (BOTTOM - TOP)
}

fn decade(value: f64) -> f64 {
    value.max(1e-3).log10()
}

fn colour(run: usize) -> &'static str {
    COLOURS[run % COLOURS.len()]
}

fn line(svg: &mut String, [x1, y1]: [f64; 2], [x2, y2]: [f64; 2]) {
    let _ = writeln!(
        svg,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#dddddd\"/>"
    );
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"#333333\">{text}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::keystrokes::replay::{Cause, Replayed};
    use crate::bench::keystrokes::report::tests::keystroke;
    use crate::complete::fim::Order;
    use crate::complete::record::Source;

    fn run(server: &str, costs: &[(usize, f64)]) -> Run {
        let key = |&(tokens, ms): &(usize, f64)| keystroke(Cause::Typing, Source::Model, tokens, ms);
        let keystrokes = costs.iter().map(key).collect();
        Run::new(server.into(), Order::Spm, vec![Replayed { keystrokes, wasted: Vec::new() }])
    }

    #[test]
    fn pictures_show_every_key_inside_their_frame() {
        let runs = [
            run("a & <b>", &[(0, 0.0), (3, 5.5), (572, 3000.0)]),
            run("c", &[(99, 100.0)]),
            run("none", &[]),
        ];
        let svg = svg(&runs);
        assert_eq!(svg.matches("<circle ").count(), 4);
        assert_eq!(svg.matches("<path ").count(), 2, "a run without answers has no curve");
        assert!(svg.contains("a &amp; &lt;b&gt;, spm") && svg.contains(">none, spm<"));
        assert!(!svg.contains("NaN") && !svg.contains("inf") && !svg.contains("not told"));
        // The times span 0.001 ms, shown at the edge of 0.01, to 10 s.
        assert!(svg.contains("M60.0,270.0H60.0V193.3H238.1V116.7H416.0V40.0H450.0"), "{svg}");
        for attribute in ["cx", "cy", "x", "y", "x1", "y1"] {
            for value in svg.split(&format!(" {attribute}=\"")).skip(1) {
                let value: f64 = value.split('"').next().unwrap().parse().unwrap();
                assert!((0.0..=WIDTH).contains(&value), "{attribute} = {value}");
            }
        }
        assert_eq!(svg.matches('<').count(), svg.matches('>').count());
        assert!(super::svg(&[]).contains("not told"));
    }
}
