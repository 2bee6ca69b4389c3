//! Reports that people read: one HTML file, nothing beside it.
//!
//! No script, no font, no picture from elsewhere: the style sheet, the charts
//! (inline SVG) and the pictures (base64) are in the file, so it can be mailed,
//! archived and printed, and opens the same in ten years. It follows the
//! reader's light or dark mode. The same content gives the same bytes.
//!
//! Every string is escaped on the way in; a gene called `<script>` is a name.

mod colour;
#[cfg(feature = "slides")]
pub mod picture;
mod scale;
mod svg;
mod text;
#[cfg(feature = "slides")]
mod tissue;

pub use svg::{
    BarChart, Guide, Histogram, LineChart, Scatter, ScatterGrid, Series, SpatialMap, Svg,
};
pub(crate) use text::base64;
pub use text::number;
#[cfg(feature = "slides")]
pub use tissue::{Panel, TissueMap};

use std::fmt::Write as _;
use std::path::Path;

use crate::error::Result;
use crate::formats::atomic::write_bytes;
use text::escape;

const STYLE: &str = include_str!("style.css");

/// A report under way: title, warnings and sections, in the order of calls.
#[derive(Clone, Debug, Default)]
pub struct Report {
    title: String,
    subtitle: String,
    warnings: Vec<String>,
    metrics: Vec<(String, String)>,
    sections: Vec<Section>,
}

/// A part of a report under its own heading.
#[derive(Clone, Debug, Default)]
pub struct Section {
    heading: String,
    /// Finished HTML.
    body: String,
}

impl Report {
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            ..Self::default()
        }
    }

    /// A line under the title: what was run, when it matters with which seed.
    pub fn subtitle(&mut self, text: impl Into<String>) -> &mut Self {
        self.subtitle = text.into();
        self
    }

    /// What a reader must know before believing a figure ("random weights",
    /// "same patient"): in a box at the top.
    pub fn warning(&mut self, text: impl Into<String>) -> &mut Self {
        self.warnings.push(text.into());
        self
    }

    /// One of the few numbers that the report is about, shown large at the top.
    pub fn headline(&mut self, value: impl Into<String>, label: impl Into<String>) -> &mut Self {
        self.metrics.push((value.into(), label.into()));
        self
    }

    /// Starts a section; what is added to it comes in order.
    pub fn section(&mut self, heading: impl Into<String>) -> &mut Section {
        self.sections.push(Section {
            heading: heading.into(),
            body: String::new(),
        });
        let last = self.sections.len() - 1;
        &mut self.sections[last]
    }

    /// The whole report as an HTML document.
    pub fn to_html(&self) -> String {
        let title = escape(&self.title);
        let mut html = format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
             <header>\n<h1>{title}</h1>\n"
        );
        if !self.subtitle.is_empty() {
            push(
                &mut html,
                format_args!("<p>{}</p>\n", escape(&self.subtitle)),
            );
        }
        html.push_str("</header>\n");
        if !self.warnings.is_empty() {
            html.push_str("<aside class=\"warnings\">\n<h2>Before you read on</h2>\n<ul>\n");
            for warning in &self.warnings {
                push(&mut html, format_args!("<li>{}</li>\n", escape(warning)));
            }
            html.push_str("</ul>\n</aside>\n");
        }
        if !self.metrics.is_empty() {
            html.push_str("<div class=\"metrics\">\n");
            for (value, label) in &self.metrics {
                push(
                    &mut html,
                    format_args!(
                        "<div class=\"metric\"><b>{}</b><span>{}</span></div>\n",
                        escape(value),
                        escape(label)
                    ),
                );
            }
            html.push_str("</div>\n");
        }
        for section in &self.sections {
            push(
                &mut html,
                format_args!(
                    "<section>\n<h2>{}</h2>\n{}</section>\n",
                    escape(&section.heading),
                    section.body
                ),
            );
        }
        push(
            &mut html,
            format_args!(
                "<footer>Made by eosin {}.</footer>\n</main>\n</body>\n</html>\n",
                env!("CARGO_PKG_VERSION")
            ),
        );
        html
    }

    /// Writes the report, whole or not at all.
    ///
    /// # Errors
    /// The folder cannot be written, or the disk is full.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        write_bytes(path, self.to_html().as_bytes())
    }
}

impl Section {
    pub fn paragraph(&mut self, text: impl AsRef<str>) -> &mut Self {
        push(
            &mut self.body,
            format_args!("<p>{}</p>\n", escape(text.as_ref())),
        );
        self
    }

    /// Names and values, such as what was run with which seed.
    pub fn facts<K: AsRef<str>, V: AsRef<str>>(
        &mut self,
        rows: impl IntoIterator<Item = (K, V)>,
    ) -> &mut Self {
        self.body.push_str("<table class=\"facts\"><tbody>\n");
        for (key, value) in rows {
            push(
                &mut self.body,
                format_args!(
                    "<tr><th scope=\"row\">{}</th><td>{}</td></tr>\n",
                    escape(key.as_ref()),
                    escape(value.as_ref())
                ),
            );
        }
        self.body.push_str("</tbody></table>\n");
        self
    }

    /// A table; columns whose every cell is a number are set flush right.
    pub fn table(&mut self, caption: &str, header: &[&str], rows: &[Vec<String>]) -> &mut Self {
        let numeric = |column: usize| {
            let mut cells = rows.iter().filter_map(|r| r.get(column)).peekable();
            cells.peek().is_some() && cells.all(|cell| is_number(cell))
        };
        let class: Vec<&str> = (0..header.len())
            .map(|c| if numeric(c) { " class=\"n\"" } else { "" })
            .collect();
        self.body.push_str("<div class=\"wide\"><table>\n");
        if !caption.is_empty() {
            push(
                &mut self.body,
                format_args!("<caption>{}</caption>\n", escape(caption)),
            );
        }
        self.body.push_str("<thead><tr>");
        for (name, class) in header.iter().zip(&class) {
            push(
                &mut self.body,
                format_args!("<th scope=\"col\"{class}>{}</th>", escape(name)),
            );
        }
        self.body.push_str("</tr></thead>\n<tbody>\n");
        for row in rows {
            self.body.push_str("<tr>");
            for (cell, class) in row.iter().zip(&class) {
                push(
                    &mut self.body,
                    format_args!("<td{class}>{}</td>", escape(cell)),
                );
            }
            self.body.push_str("</tr>\n");
        }
        self.body.push_str("</tbody></table></div>\n");
        self
    }

    /// A chart with the sentence that says what to see in it.
    pub fn figure(&mut self, chart: &Svg, caption: &str) -> &mut Self {
        self.body.push_str("<figure>\n");
        self.body.push_str(chart.as_str());
        self.caption(caption)
    }

    /// PNG files side by side, each with its label. They are put into the
    /// document as they are: a third larger than their bytes.
    pub fn images<P: AsRef<[u8]>, L: AsRef<str>>(
        &mut self,
        images: impl IntoIterator<Item = (P, L)>,
        caption: &str,
    ) -> &mut Self {
        self.body.push_str("<figure>\n<div class=\"strip\">\n");
        for (png, label) in images {
            let label = escape(label.as_ref());
            push(
                &mut self.body,
                format_args!(
                    "<div><img alt=\"{label}\" src=\"data:image/png;base64,{}\">{label}</div>\n",
                    base64(png.as_ref())
                ),
            );
        }
        self.body.push_str("</div>\n");
        self.caption(caption)
    }

    fn caption(&mut self, caption: &str) -> &mut Self {
        if !caption.is_empty() {
            push(
                &mut self.body,
                format_args!("<figcaption>{}</figcaption>\n", escape(caption)),
            );
        }
        self.body.push_str("</figure>\n");
        self
    }
}

/// Writing to a `String` cannot fail.
fn push(html: &mut String, text: std::fmt::Arguments) {
    html.write_fmt(text).ok();
}

fn is_number(cell: &str) -> bool {
    let cell = cell.trim_end_matches('%').trim_end();
    matches!(cell, "–" | "") || cell.replace('−', "-").parse::<f64>().is_ok()
}
