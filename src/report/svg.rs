//! Charts as inline SVG: no script, no resource, coloured by the page's style.
//!
//! Every chart takes plain data and returns an [`Svg`]. Values that are not
//! finite are left out; a chart without any says so. Text is escaped here, so
//! callers pass names as they are.

use std::fmt::Write;

use super::colour::viridis;
use super::scale::{Scale, extent, nice_step};
use super::text::{escape, number, shorten};

/// A finished chart: one well-formed `<svg>` element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Svg(String);

impl Svg {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Width of a chart that fills the page, in CSS pixels.
const WIDE: f64 = 940.0;

/// Colours in the style sheet; further series take them again from the start.
const COLOURS: usize = 6;

/// A named line of (x, y) points, in order of x.
#[derive(Clone, Debug, Default)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
    /// Which colour, so that training and validation of one run can share it.
    pub colour: usize,
    pub dashed: bool,
}

/// Lines over a common x, such as loss curves.
#[derive(Clone, Debug, Default)]
pub struct LineChart {
    pub title: String,
    pub x_label: String,
    pub y_label: String,
    pub log_y: bool,
    pub series: Vec<Series>,
}

impl LineChart {
    pub fn draw(&self) -> Svg {
        let mut plot = Plot::new(&self.title, WIDE, 380.0);
        let all = || self.series.iter().flat_map(|s| s.points.iter().copied());
        plot.describe(format!(
            "Line chart of {} against {}: {}.",
            self.y_label,
            self.x_label,
            self.series
                .iter()
                .map(|s| s.name.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        ));
        let x = Scale::linear(all().map(|p| p.0), 8);
        let y = if self.log_y {
            Scale::log(all().map(|p| p.1))
        } else {
            Scale::linear(all().map(|p| p.1), 5)
        };
        let names = self
            .series
            .iter()
            .map(|s| (s.name.as_str(), s.colour, Key::Line(s.dashed)));
        plot.legend(names);
        let area = plot.area(58.0, 24.0, 44.0);
        plot.axes(&area, (&x, &self.x_label), (&y, &self.y_label));
        let mut drawn = false;
        for series in &self.series {
            // A gap where a value is missing, so that it is not papered over.
            for run in series
                .points
                .split(|&(a, b)| area.at(&x, &y, a, b).is_none())
            {
                drawn |= !run.is_empty();
                let places: Vec<_> = run
                    .iter()
                    .filter_map(|&(a, b)| area.at(&x, &y, a, b))
                    .collect();
                plot.line(&places, series.colour, series.dashed);
            }
        }
        if !drawn {
            plot.nothing(&area);
        }
        plot.finish()
    }
}

/// Counts of values per bin, for one or several groups laid over each other.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    pub title: String,
    pub x_label: String,
    pub y_label: String,
    /// Groups in order of drawing: name and values.
    pub groups: Vec<(String, Vec<f64>)>,
    /// About how many bins; their width is a round number.
    pub bins: usize,
    /// Vertical marks: where, and what it is called.
    pub marks: Vec<(f64, String)>,
}

impl Histogram {
    pub fn draw(&self) -> Svg {
        let mut plot = Plot::new(&self.title, WIDE, 360.0);
        let values = || self.groups.iter().flat_map(|g| g.1.iter().copied());
        plot.describe(format!(
            "Histogram of {}: {}. Marked: {}.",
            self.x_label,
            self.groups
                .iter()
                .map(|(name, values)| format!("{name}, {} values", values.len()))
                .collect::<Vec<_>>()
                .join("; "),
            self.marks
                .iter()
                .map(|(at, name)| format!("{name} at {}", number(*at, 3)))
                .collect::<Vec<_>>()
                .join(", ")
        ));
        let bins = self.bins.clamp(1, 200);
        let (low, high) = extent(values()).unwrap_or((0.0, 1.0));
        let span = if high > low { high - low } else { 1.0 };
        let width = nice_step(span / bins as f64);
        let first = (low / width).floor();
        let count = ((high / width).floor() - first).clamp(0.0, 2000.0) as usize + 1;
        let tally = |group: &[f64]| -> Vec<usize> {
            let mut counts = vec![0; count];
            for value in group.iter().filter(|v| v.is_finite()) {
                // A float cast saturates, so the index is safe once capped.
                let bin = ((value / width).floor() - first) as usize;
                counts[bin.min(count - 1)] += 1;
            }
            counts
        };
        let tallies: Vec<Vec<usize>> = self.groups.iter().map(|g| tally(&g.1)).collect();
        let edges = [first * width, (first + count as f64) * width];
        let marks = self.marks.iter().map(|m| m.0);
        let x = Scale::linear(edges.into_iter().chain(marks), 8);
        let tallest = tallies.iter().flatten().copied().max().unwrap_or(0);
        let y = Scale::linear([0.0, tallest.max(1) as f64].into_iter(), 5);

        let names = self
            .groups
            .iter()
            .enumerate()
            .map(|(i, g)| (g.0.as_str(), i, Key::Box));
        plot.legend(names);
        let area = plot.area(58.0, 24.0, 44.0);
        let head = if self.marks.is_empty() {
            0.0
        } else {
            16.0 * self.marks.len() as f64
        };
        let area = Area {
            y: area.y + head,
            height: area.height - head,
            ..area
        };
        plot.axes(&area, (&x, &self.x_label), (&y, &self.y_label));
        for (g, counts) in tallies.iter().enumerate() {
            for (bin, &n) in counts.iter().enumerate().filter(|(_, n)| **n > 0) {
                let start = (first + bin as f64) * width;
                let end = start + width;
                let (Some((x0, y0)), Some((x1, y1))) =
                    (area.at(&x, &y, start, 0.0), area.at(&x, &y, end, n as f64))
                else {
                    continue;
                };
                plot.raw(format_args!(
                    r#"<rect class="overlaid f{}" x="{:.1}" y="{y1:.1}" width="{:.1}" height="{:.1}"/>"#,
                    g % COLOURS,
                    x0 + 0.5,
                    (x1 - x0 - 1.0).max(0.6),
                    y0 - y1
                ));
            }
        }
        for (row, (at, name)) in self.marks.iter().enumerate() {
            if let Some((px, _)) = area.at(&x, &y, *at, 0.0) {
                let top = area.y - head + 16.0 * row as f64 + 10.0;
                plot.raw(format_args!(
                    r#"<line class="mark" x1="{px:.1}" y1="{:.1}" x2="{px:.1}" y2="{:.1}"/>"#,
                    top - 8.0,
                    area.y + area.height
                ));
                let right = px > area.x + 0.7 * area.width;
                let (tx, anchor) = if right {
                    (px - 5.0, "end")
                } else {
                    (px + 5.0, "start")
                };
                plot.text("legend", tx, top, anchor, &shorten(name, 40));
            }
        }
        if values().all(|v| !v.is_finite()) {
            plot.nothing(&area);
        }
        plot.finish()
    }
}

/// A line to read points against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guide {
    #[default]
    None,
    /// y = x; both axes then have the same range.
    Identity,
    /// Least squares of y on x.
    Regression,
}

/// Points, such as predicted against measured.
#[derive(Clone, Debug, Default)]
pub struct Scatter {
    pub title: String,
    /// A line under the title, such as "r = 0.81".
    pub note: String,
    pub x_label: String,
    pub y_label: String,
    pub points: Vec<(f64, f64)>,
    pub guide: Guide,
    pub colour: usize,
}

impl Scatter {
    pub fn draw(&self) -> Svg {
        let mut plot = Plot::new(&self.title, 480.0, 440.0);
        plot.describe(self.description());
        let area = plot.area(58.0, 20.0, 44.0);
        let area = plot.note(area, &self.note);
        self.draw_in(&mut plot, &area, 5, &self.points);
        plot.finish()
    }

    fn description(&self) -> String {
        format!(
            "Scatter plot of {} against {}, {} points. {}",
            self.y_label,
            self.x_label,
            self.points.len(),
            self.note
        )
    }

    /// On axes that hold `all` points.
    fn draw_in(&self, plot: &mut Plot, area: &Area, ticks: usize, all: &[(f64, f64)]) {
        let (xs, ys) = (|| all.iter().map(|p| p.0), || all.iter().map(|p| p.1));
        let (x, y) = if self.guide == Guide::Identity {
            let both = Scale::linear(xs().chain(ys()), ticks);
            (both.clone(), both)
        } else {
            (Scale::linear(xs(), ticks), Scale::linear(ys(), ticks))
        };
        plot.axes(area, (&x, &self.x_label), (&y, &self.y_label));
        if let Some((slope, intercept)) = self.guide_line() {
            let inside = clip(slope, intercept, x.ends(), y.ends());
            if let Some((a, b)) = inside
                && let (Some(p), Some(q)) = (area.at(&x, &y, a.0, a.1), area.at(&x, &y, b.0, b.1))
            {
                plot.raw(format_args!(
                    r#"<line class="guide" x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}"/>"#,
                    p.0, p.1, q.0, q.1
                ));
            }
        }
        let places: Vec<_> = self
            .points
            .iter()
            .filter_map(|p| area.at(&x, &y, p.0, p.1))
            .collect();
        let radius = if places.len() > 400 { 1.8 } else { 3.2 };
        for (px, py) in &places {
            plot.raw(format_args!(
                r#"<circle class="dot f{}" cx="{px:.1}" cy="{py:.1}" r="{radius}"/>"#,
                self.colour % COLOURS
            ));
        }
        if places.is_empty() {
            plot.nothing(area);
        }
    }

    /// Slope and intercept of the guide, if it has any.
    fn guide_line(&self) -> Option<(f64, f64)> {
        match self.guide {
            Guide::None => None,
            Guide::Identity => Some((1.0, 0.0)),
            Guide::Regression => {
                let finite = || {
                    self.points
                        .iter()
                        .filter(|p| p.0.is_finite() && p.1.is_finite())
                };
                let n = finite().count() as f64;
                let (mx, my) = (
                    finite().map(|p| p.0).sum::<f64>() / n,
                    finite().map(|p| p.1).sum::<f64>() / n,
                );
                let xx: f64 = finite().map(|p| (p.0 - mx).powi(2)).sum();
                let xy: f64 = finite().map(|p| (p.0 - mx) * (p.1 - my)).sum();
                let slope = xy / xx;
                slope.is_finite().then_some((slope, my - slope * mx))
            }
        }
    }
}

/// The part of a line inside a rectangle.
fn clip(
    slope: f64,
    intercept: f64,
    x: (f64, f64),
    y: (f64, f64),
) -> Option<((f64, f64), (f64, f64))> {
    let (mut low, mut high) = x;
    if slope != 0.0 {
        let (a, b) = ((y.0 - intercept) / slope, (y.1 - intercept) / slope);
        low = low.max(a.min(b));
        high = high.min(a.max(b));
    } else if intercept < y.0 || intercept > y.1 {
        return None;
    }
    (low < high).then_some((
        (low, slope * low + intercept),
        (high, slope * high + intercept),
    ))
}

/// Small multiples: scatter plots side by side.
#[derive(Clone, Debug, Default)]
pub struct ScatterGrid {
    pub title: String,
    pub columns: usize,
    pub panels: Vec<Scatter>,
    /// All panels have the same axes, so that places compare; else each has its own.
    pub same_axes: bool,
}

impl ScatterGrid {
    pub fn draw(&self) -> Svg {
        let columns = self.columns.clamp(1, 6);
        let rows = self.panels.len().div_ceil(columns).max(1);
        let width = WIDE;
        let cell = (width - 20.0) / columns as f64;
        let head = if self.title.is_empty() { 12.0 } else { 40.0 };
        let mut plot = Plot::new(&self.title, width, head + rows as f64 * cell + 8.0);
        let names: Vec<_> = self.panels.iter().map(|p| p.title.as_str()).collect();
        plot.describe(format!(
            "{} scatter plots: {}.",
            names.len(),
            names.join(", ")
        ));
        let all: Vec<(f64, f64)> = match self.same_axes {
            true => self.panels.iter().flat_map(|p| p.points.clone()).collect(),
            false => Vec::new(),
        };
        for (i, panel) in self.panels.iter().enumerate() {
            let left = 10.0 + (i % columns) as f64 * cell;
            let top = head + (i / columns) as f64 * cell;
            let limit = (cell / 8.0) as usize;
            plot.text(
                "title",
                left + 50.0,
                top + 16.0,
                "start",
                &shorten(&panel.title, limit),
            );
            plot.text(
                "tick",
                left + 50.0,
                top + 31.0,
                "start",
                &shorten(&panel.note, limit + 6),
            );
            let area = Area {
                x: left + 50.0,
                y: top + 42.0,
                width: cell - 64.0,
                height: cell - 42.0 - 46.0,
            };
            let held = if self.same_axes { &all } else { &panel.points };
            panel.draw_in(&mut plot, &area, 3, held);
        }
        plot.finish()
    }
}

/// One bar per label, lying down so that names have room.
#[derive(Clone, Debug, Default)]
pub struct BarChart {
    pub title: String,
    pub x_label: String,
    /// Label, value and colour.
    pub bars: Vec<(String, f64, usize)>,
    /// Vertical marks: where, and what it is called.
    pub marks: Vec<(f64, String)>,
}

impl BarChart {
    pub fn draw(&self) -> Svg {
        let row = 24.0;
        let rows = self.bars.len().max(2) as f64 * row;
        let mut plot = Plot::new(
            &self.title,
            WIDE,
            rows + 92.0 + 16.0 * self.marks.len() as f64,
        );
        plot.describe(format!(
            "Bar chart of {}: {}.",
            self.x_label,
            self.bars
                .iter()
                .map(|(name, value, _)| format!("{name} {}", number(*value, 3)))
                .collect::<Vec<_>>()
                .join(", ")
        ));
        let values = self.bars.iter().map(|b| b.1);
        let x = Scale::linear(values.chain(self.marks.iter().map(|m| m.0)).chain([0.0]), 6);
        let mut area = plot.area(170.0, 64.0, 44.0);
        let head = 16.0 * self.marks.len() as f64;
        area.y += head;
        area.height -= head;
        plot.x_axis(&area, &x, &self.x_label);
        for (i, (name, value, colour)) in self.bars.iter().enumerate() {
            let top = area.y + i as f64 * row;
            plot.text(
                "legend",
                area.x - 8.0,
                top + 0.5 * row + 4.0,
                "end",
                &shorten(name, 24),
            );
            let (Some(zero), Some(end)) = (x.place(0.0), x.place(*value)) else {
                plot.text(
                    "tick",
                    area.x + 6.0,
                    top + 0.5 * row + 4.0,
                    "start",
                    "no value",
                );
                continue;
            };
            let (left, right) = (zero.min(end), zero.max(end));
            let px = area.x + left * area.width;
            plot.bar(
                px,
                top + 4.0,
                ((right - left) * area.width).max(0.6),
                row - 8.0,
                *colour,
            );
            let tip = area.x + right * area.width + 5.0;
            plot.text(
                "tick",
                tip,
                top + 0.5 * row + 4.0,
                "start",
                &number(*value, 3),
            );
        }
        for (n, (at, name)) in self.marks.iter().enumerate() {
            if let Some(place) = x.place(*at) {
                let px = area.x + place * area.width;
                let top = area.y - head + 16.0 * n as f64 + 6.0;
                plot.raw(format_args!(
                    r#"<line class="mark" x1="{px:.1}" y1="{:.1}" x2="{px:.1}" y2="{:.1}"/>"#,
                    top - 8.0,
                    area.y + area.height
                ));
                let (tx, anchor) = if place > 0.7 {
                    (px - 5.0, "end")
                } else {
                    (px + 5.0, "start")
                };
                plot.text("legend", tx, top, anchor, &shorten(name, 40));
            }
        }
        if self.bars.is_empty() {
            plot.nothing(&area);
        }
        plot.finish()
    }
}

/// Points of a slide, coloured by value, with y downwards as in an image.
#[derive(Clone, Debug, Default)]
pub struct SpatialMap {
    pub title: String,
    pub value_label: String,
    /// x, y and value.
    pub points: Vec<(f64, f64, f64)>,
}

impl SpatialMap {
    pub fn draw(&self) -> Svg {
        let mut plot = Plot::new(&self.title, 520.0, 460.0);
        let finite = || {
            self.points
                .iter()
                .filter(|p| p.0.is_finite() && p.1.is_finite() && p.2.is_finite())
        };
        let range = extent(finite().map(|p| p.2)).unwrap_or((0.0, 1.0));
        plot.describe(format!(
            "Map of {} at {} places, from {} to {}.",
            self.value_label,
            finite().count(),
            number(range.0, 3),
            number(range.1, 3)
        ));
        let area = plot.area(20.0, 108.0, 20.0);
        let (x0, x1) = extent(finite().map(|p| p.0)).unwrap_or((0.0, 1.0));
        let (y0, y1) = extent(finite().map(|p| p.1)).unwrap_or((0.0, 1.0));
        // One scale for both directions keeps the tissue's shape; the radius is
        // half the spacing that the points would have on a grid.
        let (wide, high) = ((x1 - x0).max(1e-9), (y1 - y0).max(1e-9));
        let count = finite().count().max(1) as f64;
        let scale = (area.width / wide).min(area.height / high) * 0.94;
        let radius = (0.45 * scale * (wide * high / count).sqrt()).clamp(1.2, 9.0);
        let (cx, cy) = (area.x + 0.5 * area.width, area.y + 0.5 * area.height);
        for &(x, y, value) in finite() {
            let t = if range.1 > range.0 {
                (value - range.0) / (range.1 - range.0)
            } else {
                0.5
            };
            plot.raw(format_args!(
                r#"<circle cx="{:.1}" cy="{:.1}" r="{radius:.1}" fill="{}"/>"#,
                cx + scale * (x - 0.5 * (x0 + x1)),
                cy + scale * (y - 0.5 * (y0 + y1)),
                viridis(t)
            ));
        }
        plot.colour_bar(area.x + area.width + 28.0, &area, range, &self.value_label);
        if finite().next().is_none() {
            plot.nothing(&area);
        }
        plot.finish()
    }
}

/// The rectangle between the axes, in the drawing's units.
#[derive(Clone, Copy)]
struct Area {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

impl Area {
    fn at(&self, x: &Scale, y: &Scale, a: f64, b: f64) -> Option<(f64, f64)> {
        Some((
            self.x + x.place(a)? * self.width,
            self.y + (1.0 - y.place(b)?) * self.height,
        ))
    }
}

/// What a legend's entry shows.
enum Key {
    Line(bool),
    Box,
}

/// A drawing under way.
struct Plot {
    width: f64,
    height: f64,
    title: String,
    description: String,
    /// Where the next thing below title and legend goes.
    top: f64,
    body: String,
}

impl Plot {
    fn new(title: &str, width: f64, height: f64) -> Self {
        let mut plot = Self {
            width,
            height,
            title: title.to_owned(),
            description: String::new(),
            top: 14.0,
            body: String::new(),
        };
        if !title.is_empty() {
            let limit = (width / 8.5) as usize;
            plot.text("title", 14.0, 25.0, "start", &shorten(title, limit));
            plot.top = 40.0;
        }
        plot
    }

    fn describe(&mut self, text: String) {
        self.description = text;
    }

    fn raw(&mut self, element: std::fmt::Arguments) {
        self.body.write_fmt(element).ok();
        self.body.push('\n');
    }

    fn text(&mut self, class: &str, x: f64, y: f64, anchor: &str, text: &str) {
        self.raw(format_args!(
            r#"<text class="{class}" x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{}</text>"#,
            escape(text)
        ));
    }

    fn line(&mut self, places: &[(f64, f64)], colour: usize, dashed: bool) {
        let class = format!("s{}", colour % COLOURS);
        match places {
            [] => {}
            [(x, y)] => self.raw(format_args!(
                r#"<circle class="f{}" cx="{x:.1}" cy="{y:.1}" r="2.5"/>"#,
                colour % COLOURS
            )),
            _ => {
                let points: Vec<String> = places
                    .iter()
                    .map(|(x, y)| format!("{x:.1},{y:.1}"))
                    .collect();
                let dash = if dashed { " dashed" } else { "" };
                self.raw(format_args!(
                    r#"<polyline class="line {class}{dash}" points="{}"/>"#,
                    points.join(" ")
                ));
            }
        }
    }

    fn bar(&mut self, x: f64, y: f64, width: f64, height: f64, colour: usize) {
        self.raw(format_args!(
            r#"<rect class="f{}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}"/>"#,
            colour % COLOURS
        ));
    }

    /// Entries in rows across the drawing; widths are estimates of the text's.
    fn legend<'a>(&mut self, entries: impl Iterator<Item = (&'a str, usize, Key)>) {
        let mut x = 14.0;
        let mut any = false;
        for (name, colour, key) in entries.filter(|e| !e.0.is_empty()) {
            let name = shorten(name, 40);
            let wide = 34.0 + 6.6 * name.chars().count() as f64 + 14.0;
            if any && x + wide > self.width - 14.0 {
                x = 14.0;
                self.top += 18.0;
            }
            any = true;
            let y = self.top + 4.0;
            match key {
                Key::Line(dashed) => self.line(&[(x, y), (x + 24.0, y)], colour, dashed),
                Key::Box => self.bar(x + 10.0, y - 5.0, 14.0, 10.0, colour),
            }
            self.text("legend", x + 30.0, y + 4.0, "start", &name);
            x += wide;
        }
        if any {
            self.top += 22.0;
        }
    }

    /// A quiet line above the area, which it makes room for.
    fn note(&mut self, area: Area, text: &str) -> Area {
        if text.is_empty() {
            return area;
        }
        self.text(
            "tick",
            14.0,
            area.y - 4.0,
            "start",
            &shorten(text, (self.width / 7.0) as usize),
        );
        Area {
            y: area.y + 10.0,
            height: area.height - 10.0,
            ..area
        }
    }

    /// What is left after title, legend and the margins for labels.
    fn area(&self, left: f64, right: f64, bottom: f64) -> Area {
        Area {
            x: left,
            y: self.top + 4.0,
            width: self.width - left - right,
            height: self.height - self.top - 4.0 - bottom,
        }
    }

    fn axes(&mut self, area: &Area, x: (&Scale, &str), y: (&Scale, &str)) {
        self.x_axis(area, x.0, x.1);
        for (value, label) in &y.0.ticks {
            let Some(place) = y.0.place(*value) else {
                continue;
            };
            let py = area.y + (1.0 - place) * area.height;
            self.raw(format_args!(
                r#"<line class="grid" x1="{:.1}" y1="{py:.1}" x2="{:.1}" y2="{py:.1}"/>"#,
                area.x,
                area.x + area.width
            ));
            self.text("tick", area.x - 7.0, py + 4.0, "end", label);
        }
        let (px, py) = (area.x - 42.0, area.y + 0.5 * area.height);
        self.raw(format_args!(
            r#"<text x="{px:.1}" y="{py:.1}" text-anchor="middle" transform="rotate(-90 {px:.1} {py:.1})">{}</text>"#,
            escape(&shorten(y.1, (area.height / 6.5) as usize))
        ));
    }

    fn x_axis(&mut self, area: &Area, x: &Scale, label: &str) {
        let bottom = area.y + area.height;
        for (value, label) in &x.ticks {
            let Some(place) = x.place(*value) else {
                continue;
            };
            let px = area.x + place * area.width;
            self.raw(format_args!(
                r#"<line class="grid" x1="{px:.1}" y1="{:.1}" x2="{px:.1}" y2="{bottom:.1}"/>"#,
                area.y
            ));
            self.text("tick", px, bottom + 16.0, "middle", label);
        }
        self.raw(format_args!(
            r#"<line class="axis" x1="{:.1}" y1="{bottom:.1}" x2="{:.1}" y2="{bottom:.1}"/>"#,
            area.x,
            area.x + area.width
        ));
        let limit = (area.width / 6.5) as usize;
        self.text(
            "label",
            area.x + 0.5 * area.width,
            bottom + 34.0,
            "middle",
            &shorten(label, limit),
        );
    }

    fn colour_bar(&mut self, x: f64, area: &Area, range: (f64, f64), label: &str) {
        const STEPS: usize = 64;
        let (top, height) = (area.y + 12.0, area.height - 24.0);
        let step = height / STEPS as f64;
        for i in 0..STEPS {
            // A little taller than the step, so that no seam shows.
            self.raw(format_args!(
                r#"<rect x="{x:.1}" y="{:.2}" width="14" height="{:.2}" fill="{}"/>"#,
                top + i as f64 * step,
                step + 0.4,
                viridis(1.0 - (i as f64 + 0.5) / STEPS as f64)
            ));
        }
        for part in [0.0, 0.5, 1.0] {
            let value = range.0 + part * (range.1 - range.0);
            let y = top + (1.0 - part) * height + 4.0;
            self.text("tick", x + 20.0, y, "start", &number(value, 3));
        }
        let (px, py) = (x - 8.0, top + 0.5 * height);
        self.raw(format_args!(
            r#"<text x="{px:.1}" y="{py:.1}" text-anchor="middle" transform="rotate(-90 {px:.1} {py:.1})">{}</text>"#,
            escape(&shorten(label, 48))
        ));
    }

    fn nothing(&mut self, area: &Area) {
        let (x, y) = (area.x + 0.5 * area.width, area.y + 0.5 * area.height);
        self.text("label", x, y, "middle", "no values to show");
    }

    fn finish(self) -> Svg {
        Svg(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" width=\"{:.0}\" viewBox=\"0 0 {:.0} {:.0}\">\n<title>{}</title>\n<desc>{}</desc>\n{}</svg>\n",
            self.width,
            self.width,
            self.height,
            escape(&self.title),
            escape(&self.description),
            self.body
        ))
    }
}
