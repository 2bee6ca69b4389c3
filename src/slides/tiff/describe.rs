//! What vendors write into TIFF files about scanner, scale and pictures.

use super::super::reader::Claim;
use super::directory::{Directory, Source, tag};

pub struct Described {
    pub vendor: String,
    pub claims: Vec<Claim>,
    pub magnification: Option<f64>,
}

/// Vendors whose files follow rules of their own, which OpenSlide knows.
pub fn foreign(source: &Source, main: &Directory) -> Option<&'static str> {
    let software = source.text(main, tag::SOFTWARE).unwrap_or_default();
    let description = source.text(main, tag::DESCRIPTION).unwrap_or_default();
    let xmp = source.raw(main, tag::XMP).unwrap_or_default();
    let xmp = &xmp[..xmp.len().min(64 << 10)];
    if main.entry(tag::HAMAMATSU).is_some() {
        Some("Hamamatsu NDPI")
    } else if description.contains("<scn ") {
        Some("Leica SCN")
    } else if xmp.windows(5).any(|w| w == b"iScan") {
        Some("Ventana BIF")
    } else if software.starts_with("Philips") {
        Some("Philips TIFF")
    } else if software.starts_with("MedScan") {
        Some("Trestle")
    } else {
        None
    }
}

impl Described {
    pub fn of(source: &Source, main: &Directory) -> Self {
        let text = source.text(main, tag::DESCRIPTION).unwrap_or_default();
        let mut claims = Vec::new();
        let (vendor, magnification) = if text.starts_with("Aperio") {
            if let Some(mpp) = aperio(&text, "MPP") {
                claims.push(Claim {
                    source: "Aperio's MPP".into(),
                    x: mpp,
                    y: mpp,
                });
            }
            ("Aperio", aperio(&text, "AppMag"))
        } else if text.contains("<OME") {
            let size = |axis: &str| {
                let size: f64 = attribute(&text, &format!("PhysicalSize{axis}"))?
                    .parse()
                    .ok()?;
                let unit = attribute(&text, &format!("PhysicalSize{axis}Unit"));
                Some(size * micrometres(unit.unwrap_or("µm"))?)
            };
            if let (Some(x), Some(y)) = (size("X"), size("Y")) {
                claims.push(Claim {
                    source: "OME's PhysicalSize".into(),
                    x,
                    y,
                });
            }
            let power = attribute(&text, "NominalMagnification").and_then(|m| m.parse().ok());
            ("OME-TIFF", power)
        } else {
            ("generic TIFF", None)
        };
        let unit = match source.number(main, tag::RESOLUTION_UNIT).unwrap_or(2) {
            2 => Some(25_400.0),
            3 => Some(10_000.0),
            _ => None,
        };
        let resolution = |tag| source.real(main, tag).filter(|r| *r > 0.0);
        if let (Some(unit), Some(x), Some(y)) = (
            unit,
            resolution(tag::X_RESOLUTION),
            resolution(tag::Y_RESOLUTION),
        ) {
            claims.push(Claim {
                source: "TIFF's XResolution and YResolution".into(),
                x: unit / x,
                y: unit / y,
            });
        }
        Self {
            vendor: vendor.into(),
            claims,
            magnification,
        }
    }
}

/// What to call a picture beside the levels; `n` of them were met before.
pub fn name(source: &Source, directory: &Directory, n: usize) -> String {
    let text = source.text(directory, tag::DESCRIPTION).unwrap_or_default();
    // Aperio: "Aperio Image Library v11...\nlabel 387x463".
    let words = text.lines().nth(1).unwrap_or(&text);
    let word = words.split_whitespace().next().unwrap_or_default();
    match (word, source.number(directory, tag::NEW_SUBFILE_TYPE)) {
        ("label" | "macro" | "thumbnail", _) => word.to_owned(),
        (_, Some(9)) => "macro".into(),
        _ if text.starts_with("Aperio") => "thumbnail".into(),
        _ => format!("picture {n}"),
    }
}

/// The number behind `key = ` in Aperio's list, which has bars between its parts.
fn aperio(text: &str, key: &str) -> Option<f64> {
    text.split('|').find_map(|part| {
        let (name, value) = part.split_once('=')?;
        (name.trim() == key).then(|| value.trim().parse().ok())?
    })
}

/// The first value of an XML attribute.
fn attribute<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let key = format!(" {name}=\"");
    let rest = &text[text.find(&key)? + key.len()..];
    rest.split_once('"').map(|(value, _)| value)
}

/// Micrometres in one of OME's units of length.
fn micrometres(unit: &str) -> Option<f64> {
    match unit.replace("&#181;", "µ").replace("&#xB5;", "µ").as_str() {
        "µm" | "\u{3bc}m" => Some(1.0),
        "nm" => Some(1e-3),
        "mm" => Some(1e3),
        "cm" => Some(1e4),
        "m" => Some(1e6),
        _ => None,
    }
}
