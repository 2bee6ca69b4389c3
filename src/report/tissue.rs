//! Expression of spots over the section that they lie in.

use std::fmt::Write;

use super::colour::viridis;
use super::picture::{beside, blank, colour, disc, fade};
use super::text::{base64, escape, number};
use crate::error::Result;
use crate::slides::{Rgb8, image::png_bytes};

/// Values of the spots in one panel.
#[derive(Clone, Debug, Default)]
pub struct Panel {
    pub title: String,
    pub values: Vec<f32>,
}

/// A gene over a section: panels beside each other, each with colours from its
/// lowest to its highest value, since predictions vary less than measurements.
#[derive(Clone, Debug)]
pub struct TissueMap<'a> {
    pub title: String,
    /// The section, small.
    pub background: &'a Rgb8,
    /// Centres of the spots in pixels of `background`.
    pub places: &'a [(f64, f64)],
    /// Of a spot in pixels of `background`.
    pub diameter: f64,
    pub panels: Vec<Panel>,
}

const BAR: usize = 14;
const GAP: usize = 18;
/// Of a spot's colour.
const OPACITY: f64 = 0.85;
/// How much of the section goes to white, so that colours stand out.
const FADED: f64 = 0.25;

impl Panel {
    /// The lowest and highest value, or 0 and 1 without any.
    fn range(&self) -> (f64, f64) {
        let finite = self.values.iter().filter(|v| v.is_finite());
        let ends = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), &v| {
            (a.min(v.into()), b.max(v.into()))
        });
        if ends.0 <= ends.1 { ends } else { (0.0, 1.0) }
    }

    /// Each spot's value in 0 to 1; `None` for one that is not finite.
    fn shares(&self) -> impl Iterator<Item = Option<f64>> {
        let (low, high) = self.range();
        let share = move |v: f64| {
            if high > low {
                (v - low) / (high - low)
            } else {
                0.5
            }
        };
        let finite = self
            .values
            .iter()
            .map(|v| v.is_finite().then_some(f64::from(*v)));
        finite.map(move |v| v.map(share))
    }
}

impl TissueMap<'_> {
    fn radius(&self) -> f64 {
        (0.5 * self.diameter).max(1.5)
    }

    /// The panels with their colour bars, from low at the foot to high, without
    /// words.
    pub fn png(&self) -> Rgb8 {
        let mut parts = Vec::with_capacity(2 * self.panels.len());
        for panel in &self.panels {
            let mut image = self.background.clone();
            fade(&mut image, FADED);
            for (&at, share) in self.places.iter().zip(panel.shares()) {
                if let Some(share) = share {
                    disc(&mut image, at, self.radius(), colour(share), OPACITY);
                }
            }
            let mut bar = blank(BAR, image.height);
            let rows = bar.data.chunks_exact_mut(BAR * 3).enumerate();
            for (y, row) in rows {
                let share = 1.0 - (y as f64 + 0.5) / image.height as f64;
                row.chunks_exact_mut(3)
                    .for_each(|p| p.copy_from_slice(&colour(share)));
            }
            parts.push(beside(&[image, bar], GAP / 3));
        }
        beside(&parts, GAP)
    }

    /// A file of its own: the panels with titles, colour bars and their numbers.
    ///
    /// # Errors
    /// A background whose data do not fit its size.
    pub fn svg(&self) -> Result<String> {
        let (wide, high) = (self.background.width as f64, self.background.height as f64);
        let (top, right) = (52.0, 84.0);
        let width = (wide + right) * self.panels.len() as f64 + 14.0;
        let mut out = String::new();
        let mut put = |text: std::fmt::Arguments| {
            // Writing to a string does not fail.
            let _ = out.write_fmt(text);
        };
        put(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" xmlns:xlink=\"http://www.w3.org/1999/xlink\" \
             width=\"{width:.0}\" height=\"{:.0}\" viewBox=\"0 0 {width:.0} {:.0}\" \
             font-family=\"sans-serif\" font-size=\"13\">\n<title>{title}</title>\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<defs><image id=\"section\" \
             width=\"{wide}\" height=\"{high}\" xlink:href=\"data:image/png;base64,{}\"/></defs>\n\
             <text x=\"14\" y=\"22\" font-size=\"16\" font-weight=\"bold\">{title}</text>\n",
            top + high + 14.0,
            top + high + 14.0,
            base64(&png_bytes(self.background)?),
            title = escape(&self.title),
        ));
        for (i, panel) in self.panels.iter().enumerate() {
            let x = 14.0 + i as f64 * (wide + right);
            put(format_args!(
                "<text x=\"{x:.0}\" y=\"44\">{}</text>\n<g transform=\"translate({x:.0} {top:.0})\">\n\
                 <use xlink:href=\"#section\" opacity=\"{}\"/>\n",
                escape(&panel.title),
                1.0 - FADED
            ));
            for (&(cx, cy), share) in self.places.iter().zip(panel.shares()) {
                if let Some(share) = share {
                    put(format_args!(
                        "<circle cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"{:.1}\" fill=\"{}\" \
                         fill-opacity=\"{OPACITY}\"/>\n",
                        self.radius(),
                        viridis(share)
                    ));
                }
            }
            const STEPS: usize = 64;
            let (left, step) = (wide + 8.0, high / STEPS as f64);
            for i in 0..STEPS {
                put(format_args!(
                    "<rect x=\"{left:.0}\" y=\"{:.2}\" width=\"{BAR}\" height=\"{:.2}\" fill=\"{}\"/>\n",
                    i as f64 * step,
                    step + 0.4,
                    viridis(1.0 - (i as f64 + 0.5) / STEPS as f64)
                ));
            }
            let (low, highest) = panel.range();
            for part in [0.0, 0.5, 1.0] {
                put(format_args!(
                    "<text x=\"{:.0}\" y=\"{:.1}\">{}</text>\n",
                    left + BAR as f64 + 5.0,
                    (1.0 - part) * (high - 11.0) + 11.0,
                    number(low + part * (highest - low), 3)
                ));
            }
            put(format_args!("</g>\n"));
        }
        put(format_args!("</svg>\n"));
        Ok(out)
    }
}
