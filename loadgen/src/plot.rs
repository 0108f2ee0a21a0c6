//! Line charts as inline SVG.
//!
//! Owns: scales, ticks, and how lines, limits and events are drawn. Must not: know what a run is, or set a colour
//! (the page's style sheet does, by class, so that light and dark mode share one picture).

use std::fmt::Write as _;

use crate::quantity::{grouped, short};

const WIDTH: f64 = 680.0;
const HEIGHT: f64 = 300.0;
/// Room for the labels around the picture: left, right, top, bottom.
const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 40.0;

/// How many line colours the style sheet has.
const COLOURS: usize = 8;

/// A limit this many times above all values is left out: it would press them flat.
const FARTHEST_LIMIT: f64 = 30.0;

/// Events that are labelled; with more, labels would cover each other.
const MOST_LABELS: usize = 6;

/// A chart.
#[derive(Debug, Clone)]
pub(crate) struct Chart {
    /// What it shows.
    pub(crate) title: String,
    /// What lies to the right, with its unit.
    pub(crate) x: Axis,
    /// What lies upwards, with its unit.
    pub(crate) y: Axis,
    /// Its lines.
    pub(crate) lines: Vec<Line>,
    /// Values of y that something is held to.
    pub(crate) limits: Vec<(f64, String)>,
    /// Values of x at which something happened.
    pub(crate) events: Vec<(f64, String)>,
}

/// A direction of a chart.
#[derive(Debug, Clone)]
pub(crate) struct Axis {
    pub(crate) name: &'static str,
    pub(crate) scale: Scale,
}

/// How values lie on an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    /// Evenly, from 0.
    Linear,
    /// By their logarithm.
    Log,
    /// Shares below 1 by their distance from it: 0, 90 %, 99 %, 99.9 % are equally far from each other.
    Nines,
}

/// A line of a chart.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) name: String,
    /// Rising in x; where y is `None` the line is broken.
    pub(crate) points: Vec<(f64, Option<f64>)>,
    /// Drawn in dashes: what was asked for, rather than what was found.
    pub(crate) dashed: bool,
}

impl Chart {
    /// The chart as a `figure`, or nothing where there is nothing to draw.
    pub(crate) fn svg(&self) -> String {
        let xs = || {
            self.lines
                .iter()
                .flat_map(|line| line.points.iter())
                .filter(|(_, y)| y.is_some())
                .map(|(x, _)| *x)
        };
        let ys = || self.lines.iter().flat_map(|line| line.points.iter()).filter_map(|(_, y)| *y);
        let (Some(x), Some(y)) = (Span::of(xs(), self.x.scale), Span::of(ys(), self.y.scale)) else {
            return String::new();
        };
        let y = self.limits.iter().fold(y, |span, (limit, _)| match *limit {
            limit if limit > span.high && limit <= span.high * FARTHEST_LIMIT => span.up_to(limit),
            _ => span,
        });
        let y = y.rounded();
        let mut svg = format!(
            "<figure><figcaption><b>{}</b>{}</figcaption>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\" data-x=\"{}\" data-y=\"{}\">\n",
            escaped(&self.title),
            self.legend(),
            escaped(&self.title),
            escaped(self.x.name),
            escaped(self.y.name)
        );
        self.axes(&mut svg, &x, &y);
        self.limits(&mut svg, &y);
        self.events(&mut svg, &x);
        for (number, line) in self.lines.iter().enumerate() {
            draw(&mut svg, number, line, &x, &y);
        }
        svg.push_str("</svg></figure>\n");
        svg
    }

    fn legend(&self) -> String {
        if self.lines.len() < 2 {
            return String::new();
        }
        let mut legend = String::from("<span class=\"legend\">");
        for (number, line) in self.lines.iter().enumerate() {
            let (colour, dashed) = (number % COLOURS, if line.dashed { " dashed" } else { "" });
            let _ = write!(legend, "<span><i class=\"k{colour}{dashed}\"></i>{}</span>", escaped(&line.name));
        }
        legend + "</span>"
    }

    fn axes(&self, svg: &mut String, x: &Span, y: &Span) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for (value, label) in y.ticks() {
            let at = y.at(value, bottom, TOP);
            let _ = write!(svg, "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/>");
            let _ = writeln!(
                svg,
                "<text class=\"end\" x=\"{:.1}\" y=\"{:.1}\">{label}</text>",
                LEFT - 6.0,
                at + 4.0
            );
        }
        for (value, label) in x.ticks() {
            let at = x.at(value, LEFT, right);
            let _ = write!(svg, "<path class=\"grid\" d=\"M{at:.1} {TOP}V{bottom}\"/>");
            let _ =
                writeln!(svg, "<text class=\"mid\" x=\"{at:.1}\" y=\"{:.1}\">{label}</text>", bottom + 15.0);
        }
        let _ = writeln!(svg, "<path class=\"axis\" d=\"M{LEFT} {bottom}H{right}\"/>");
        let middle = (LEFT + right) / 2.0;
        let _ = writeln!(
            svg,
            "<text class=\"mid name\" x=\"{middle}\" y=\"{}\">{}</text>",
            HEIGHT - 6.0,
            escaped(self.x.name)
        );
        let up = (TOP + bottom) / 2.0;
        let _ = writeln!(
            svg,
            "<text class=\"mid name\" transform=\"translate(13 {up}) rotate(-90)\">{}</text>",
            escaped(self.y.name)
        );
    }

    fn limits(&self, svg: &mut String, y: &Span) {
        let bottom = HEIGHT - BOTTOM;
        for (limit, name) in self.limits.iter().filter(|(limit, _)| *limit > 0.0 && *limit <= y.high) {
            let at = y.at(*limit, bottom, TOP);
            let _ = write!(svg, "<path class=\"limit\" d=\"M{LEFT} {at:.1}H{}\"/>", WIDTH - RIGHT);
            // Below the line where it lies at the top of the picture.
            let text = if at < TOP + 14.0 { at + 13.0 } else { at - 4.0 };
            let _ = writeln!(
                svg,
                "<text class=\"limit\" x=\"{}\" y=\"{text:.1}\">{}</text>",
                LEFT + 6.0,
                escaped(name)
            );
        }
    }

    fn events(&self, svg: &mut String, x: &Span) {
        let bottom = HEIGHT - BOTTOM;
        for (number, (when, what)) in self.events.iter().enumerate() {
            let at = x.at(*when, LEFT, WIDTH - RIGHT);
            let what = escaped(what);
            let _ = write!(
                svg,
                "<path class=\"event\" d=\"M{at:.1} {TOP}V{bottom}\"><title>{what}</title></path>"
            );
            if self.events.len() <= MOST_LABELS {
                // Labels of events that lie near each other stand in rows of their own.
                let down = bottom - 6.0 - 13.0 * (number % 3) as f64;
                let (class, at) = if at > WIDTH * 0.7 { ("end", at - 4.0) } else { ("start", at + 4.0) };
                let _ = writeln!(
                    svg,
                    "<text class=\"{class} event\" x=\"{at:.1}\" y=\"{down:.1}\">{what}</text>"
                );
            }
        }
    }
}

fn draw(svg: &mut String, number: usize, line: &Line, x: &Span, y: &Span) {
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let mut path = String::new();
    let mut values = String::new();
    let mut pen_down = false;
    for (at, value) in &line.points {
        let Some(value) = value.filter(|value| value.is_finite()) else {
            pen_down = false;
            continue;
        };
        let (px, py) = (x.at(*at, LEFT, right), y.at(value, bottom, TOP));
        let _ = write!(path, "{}{px:.1} {py:.1}", if pen_down { "L" } else { "M" });
        // A point between two gaps is seen as a dot: the line's ends are round.
        if !pen_down {
            path.push_str("h0");
        }
        pen_down = true;
        let shown = match x.scale {
            Scale::Nines => percent(*at),
            _ => short(*at),
        };
        let _ = write!(values, "{px:.1},{py:.1},{shown},{value};", shown = shown.replace(',', ""));
    }
    let _ = writeln!(
        svg,
        "<path class=\"line s{}{}\" d=\"{path}\" data-name=\"{}\" data-values=\"{}\"/>",
        number % COLOURS,
        if line.dashed { " dashed" } else { "" },
        escaped(&line.name),
        values.trim_end_matches(';')
    );
}

/// The values that an axis shows, low to high.
#[derive(Debug, Clone, Copy)]
struct Span {
    low: f64,
    high: f64,
    scale: Scale,
}

impl Span {
    /// What holds all values; `None` where there are none.
    fn of(values: impl Iterator<Item = f64>, scale: Scale) -> Option<Self> {
        let usable = values.filter(|value| value.is_finite() && (scale != Scale::Log || *value > 0.0));
        let (low, high) = usable
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        (low <= high).then_some(match scale {
            Scale::Linear => Self { low: 0.0, high: if high > 0.0 { high } else { 1.0 }, scale },
            Scale::Log => Self { low: low * 0.9, high: high * 1.1, scale },
            Scale::Nines => Self { low: 0.0, high: high.max(0.9), scale },
        })
    }

    fn up_to(self, high: f64) -> Self {
        Self { high: high * 1.05, ..self }
    }

    /// Ends at a tick, so that the highest value has a label near it.
    fn rounded(self) -> Self {
        match self.scale {
            Scale::Linear => {
                let step = step(self.high);
                Self { high: (self.high / step - 1e-9).ceil() * step, ..self }
            }
            _ => self,
        }
    }

    /// Where a value lies between the two ends of the picture.
    fn at(&self, value: f64, from: f64, to: f64) -> f64 {
        let place = |value: f64| match self.scale {
            Scale::Linear => value,
            Scale::Log => value.max(self.low).log10(),
            Scale::Nines => -(1.0 - value).max(1e-9).log10(),
        };
        let (low, high) = (place(self.low), place(self.high));
        let share = if high > low { (place(value) - low) / (high - low) } else { 0.5 };
        from + share.clamp(0.0, 1.0) * (to - from)
    }

    fn ticks(&self) -> Vec<(f64, String)> {
        let label = |value: f64| {
            if value >= 1e6 { format!("{}M", short(value / 1e6)) } else { short(value) }
        };
        match self.scale {
            Scale::Linear => {
                let step = step(self.high);
                let count = (self.high / step + 1e-9).floor() as u32;
                (0..=count)
                    .map(|number| f64::from(number) * step)
                    .map(|value| (value, label(value)))
                    .collect()
            }
            Scale::Log => {
                let decades = self.high.log10() - self.low.log10();
                let multiples: &[f64] = if decades > 3.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
                let (from, to) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
                let all = (from..=to).flat_map(|power| multiples.iter().map(move |m| m * 10_f64.powi(power)));
                all.filter(|value| (self.low..=self.high).contains(value))
                    .map(|value| (value, label(value)))
                    .collect()
            }
            Scale::Nines => {
                let all = [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999_999, 0.999_999_9];
                all.into_iter()
                    .filter(|value| *value <= self.high)
                    .map(|value| (value, percent(value)))
                    .collect()
            }
        }
    }
}

/// 1, 2 or 5 times a power of ten, so that four to eight of them reach this far.
fn step(high: f64) -> f64 {
    let rough = high / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let multiple = [1.0, 2.0, 5.0, 10.0].into_iter().find(|multiple| rough <= multiple * power * 1.2);
    multiple.unwrap_or(10.0) * power
}

/// A share as a percentage with all its nines.
fn percent(share: f64) -> String {
    let text = format!("{:.5}", share * 100.0);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

/// Text that can stand in an element or in an attribute.
pub(crate) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            letter => safe.push(letter),
        }
    }
    safe
}

/// Bars beside each other, one a row, for a few names and whole numbers.
pub(crate) fn bars(title: &str, rows: &[(String, u64)]) -> String {
    let most = rows.iter().map(|(_, value)| *value).max().unwrap_or(0);
    if most == 0 {
        return String::new();
    }
    let mut html = format!("<figure><figcaption><b>{}</b></figcaption><div class=\"bars\">", escaped(title));
    for (name, value) in rows {
        let share = *value as f64 / most as f64 * 100.0;
        let _ = write!(
            html,
            "<span>{}</span><span class=\"bar\"><i style=\"width:{share:.1}%\"></i></span><span>{}</span>",
            escaped(name),
            grouped(*value)
        );
    }
    html + "</div></figure>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(low: f64, high: f64, scale: Scale) -> Span {
        Span { low, high, scale }
    }

    #[test]
    fn ticks_are_round_numbers_within_the_axis() {
        let labels =
            |span: Span| span.ticks().into_iter().map(|(_, label)| label).collect::<Vec<_>>().join(" ");
        assert_eq!(labels(span(0.0, 100.0, Scale::Linear)), "0 20 40 60 80 100");
        assert_eq!(
            labels(span(0.0, 5_020.0, Scale::Linear).rounded()),
            "0 1,000 2,000 3,000 4,000 5,000 6,000"
        );
        assert_eq!(labels(span(0.25, 60.0, Scale::Log)), "0.5 1 2 5 10 20 50");
        assert_eq!(labels(span(0.05, 900.0, Scale::Log)), "0.1 1 10 100");
        assert_eq!(labels(span(0.0, 0.9995, Scale::Nines)), "0% 50% 90% 99% 99.9%");
    }

    #[test]
    fn a_scale_of_nines_puts_equal_room_between_them() {
        let axis = span(0.0, 0.9999, Scale::Nines);
        let at = |value| axis.at(value, 0.0, 400.0).round();
        assert_eq!([0.0, 0.9, 0.99, 0.999, 0.9999].map(at), [0.0, 100.0, 200.0, 300.0, 400.0]);
    }

    #[test]
    fn a_gap_breaks_a_line_and_markup_in_a_name_is_text() {
        let chart = Chart {
            title: "a <b>".into(),
            x: Axis { name: "s", scale: Scale::Linear },
            y: Axis { name: "ms", scale: Scale::Linear },
            lines: vec![Line {
                name: "\"x\"<script>".into(),
                points: vec![(0.0, Some(1.0)), (1.0, Some(1.0)), (2.0, None), (3.0, Some(1.0))],
                dashed: false,
            }],
            limits: Vec::new(),
            events: Vec::new(),
        };
        let svg = chart.svg();
        let path = svg.split(" d=\"").nth(svg.matches("class=\"grid\"").count() + 2).unwrap();
        assert_eq!(path.split('"').next().unwrap().matches('M').count(), 2, "{path}");
        assert!(!svg.contains("<script>") && svg.contains("a &lt;b&gt;"), "{svg}");
    }

    #[test]
    fn a_chart_without_values_is_left_out() {
        let empty = Chart {
            title: "nothing".into(),
            x: Axis { name: "s", scale: Scale::Linear },
            y: Axis { name: "ms", scale: Scale::Log },
            lines: vec![Line { name: "p99".into(), points: vec![(0.0, None)], dashed: false }],
            limits: Vec::new(),
            events: Vec::new(),
        };
        assert_eq!(empty.svg(), "");
        assert_eq!(bars("none", &[("node".into(), 0)]), "");
    }
}
