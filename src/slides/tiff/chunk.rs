//! From the bytes of one tile or strip to RGB.
//!
//! A chunk's size is known from its directory before anything is decoded, and
//! a decoder is only ever asked for that size: data that claim another one are
//! an error, so that no file makes a decoder allocate what it likes.

use std::cell::RefCell;
use std::io::Read;

use weezl::decode::Configuration;
use weezl::{BitOrder, LzwStatus};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::super::image::{JPEG_PIXELS_PER_BYTE, caught, jpeg_is_whole};

/// How the samples of a chunk are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Lzw,
    Deflate,
    Jpeg,
    Jpeg2000(Colours),
}

/// What the three samples of a pixel stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    Rgb,
    YCbCr,
    /// One sample; `WhiteIsZero` counts from white.
    Grey,
    GreyInverted,
}

/// What a decoder must know of a chunk.
#[derive(Clone, Copy, Debug)]
pub struct Coding<'a> {
    pub compression: Compression,
    pub colours: Colours,
    /// Samples of a pixel; what is above one or three is left out.
    pub samples: usize,
    /// Each sample is the difference from its left neighbour.
    pub differences: bool,
    /// Tables that the JPEG chunks of a directory share.
    pub tables: Option<&'a [u8]>,
}

impl Compression {
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lzw => "LZW",
            Self::Deflate => "deflate",
            Self::Jpeg => "JPEG",
            Self::Jpeg2000(_) => "JPEG 2000",
        }
    }
}

/// Decodes a chunk of `width` x `rows` px, of which a JPEG may hold up to `most` rows.
///
/// # Errors
/// What is wrong with the data, in words.
pub fn decode(
    data: &[u8],
    coding: &Coding,
    (width, rows, most): (usize, usize, usize),
) -> Result<Vec<u8>, String> {
    match coding.compression {
        Compression::Jpeg => caught(|| jpeg(data, coding, (width, rows, most))),
        Compression::Jpeg2000(colours) => caught(|| jpeg2000(data, colours, (width, rows))),
        _ => {
            let pitch = width * coding.samples;
            let mut samples = unpacked(data, coding.compression, pitch * rows)?;
            if coding.differences {
                for row in samples.chunks_exact_mut(pitch) {
                    for i in coding.samples..pitch {
                        row[i] = row[i].wrapping_add(row[i - coding.samples]);
                    }
                }
            }
            Ok(rgb(samples, coding))
        }
    }
}

/// Exactly `length` bytes. Memory grows with what the data really unpack to.
fn unpacked(data: &[u8], compression: Compression, length: usize) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    match compression {
        Compression::Lzw => {
            // Writers disagree on whether the end is marked: it is known here.
            let mut decoder = Configuration::with_tiff_size_switch(BitOrder::Msb, 8)
                .with_yield_on_full_buffer(true)
                .build();
            let mut rest = data;
            while out.len() < length {
                const STEP: usize = 1 << 20;
                let before = out.len();
                out.resize(length.min(before + STEP), 0);
                let done = decoder.decode_bytes(rest, &mut out[before..]);
                out.truncate(before + done.consumed_out);
                rest = rest.get(done.consumed_in..).unwrap_or_default();
                match done.status {
                    Err(e) => return Err(format!("the LZW data are damaged ({e})")),
                    Ok(LzwStatus::Ok) if done.consumed_in + done.consumed_out > 0 => {}
                    Ok(_) => break,
                }
            }
        }
        Compression::Deflate => {
            flate2::read::ZlibDecoder::new(data)
                .take(length as u64)
                .read_to_end(&mut out)
                .map_err(|e| format!("the deflate data are damaged ({e})"))?;
        }
        _ => out.extend_from_slice(data.get(..length).unwrap_or(data)),
    }
    if out.len() < length {
        return Err(format!("holds {} of {length} bytes", out.len()));
    }
    Ok(out)
}

fn rgb(samples: Vec<u8>, coding: &Coding) -> Vec<u8> {
    match (coding.colours, coding.samples) {
        (Colours::Grey, n) => samples.chunks_exact(n).flat_map(|p| [p[0]; 3]).collect(),
        (Colours::GreyInverted, n) => samples
            .chunks_exact(n)
            .flat_map(|p| [255 - p[0]; 3])
            .collect(),
        (_, 3) => samples,
        (_, n) => samples
            .chunks_exact(n)
            .flat_map(|p| [p[0], p[1], p[2]])
            .collect(),
    }
}

thread_local! {
    /// Tables and data in one piece, as the decoder wants them.
    static JOINED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn jpeg(
    data: &[u8],
    coding: &Coding,
    (width, rows, most): (usize, usize, usize),
) -> Result<Vec<u8>, String> {
    if !data.starts_with(b"\xff\xd8") {
        return Err("is not a JPEG".into());
    }
    if !jpeg_is_whole(data) {
        return Err("is a truncated JPEG".into());
    }
    if (width * rows) as u64 > (data.len() as u64).saturating_mul(JPEG_PIXELS_PER_BYTE) {
        return Err(format!("is a JPEG too short to hold {width} x {rows} px"));
    }
    let tables = coding
        .tables
        .map(|t| t.strip_suffix(b"\xff\xd9").unwrap_or(t));
    match tables {
        None => jpeg_stream(data, coding, (width, rows, most)),
        Some(tables) => JOINED.with_borrow_mut(|joined| {
            joined.clear();
            joined.extend_from_slice(tables);
            joined.extend_from_slice(&data[2..]);
            jpeg_stream(joined, coding, (width, rows, most))
        }),
    }
}

fn jpeg_stream(
    stream: &[u8],
    coding: &Coding,
    (width, rows, most): (usize, usize, usize),
) -> Result<Vec<u8>, String> {
    let damaged = |e: &dyn std::fmt::Display| {
        let words: Vec<String> = e.to_string().split_whitespace().map(String::from).collect();
        format!("the JPEG is damaged ({})", words.join(" "))
    };
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(width)
        .set_max_height(most);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(stream), options);
    decoder.decode_headers().map_err(|e| damaged(&e))?;
    let size = decoder.info().map(|i| (i.width.into(), i.height.into()));
    let Some((w, h)): Option<(usize, usize)> = size else {
        return Err("the JPEG has no header".into());
    };
    if w != width || h < rows {
        return Err(format!(
            "is a JPEG of {w} x {h} px in place of {width} x {rows}"
        ));
    }
    // Aperio and others keep RGB in JPEG without saying so in the JPEG itself:
    // then the samples are taken as they are.
    let stored = decoder.input_colorspace();
    let wanted = match (stored, coding.colours) {
        (Some(ColorSpace::YCbCr), Colours::Rgb) => ColorSpace::YCbCr,
        (Some(ColorSpace::YCbCr | ColorSpace::RGB | ColorSpace::Luma), _) => ColorSpace::RGB,
        (other, _) => return Err(format!("is a JPEG in the colour space {other:?}")),
    };
    decoder.set_options(options.jpeg_set_out_colorspace(wanted));
    let mut out = vec![0; w * h * 3];
    decoder.decode_into(&mut out).map_err(|e| damaged(&e))?;
    out.truncate(width * rows * 3);
    Ok(out)
}

fn jpeg2000(
    data: &[u8],
    colours: Colours,
    (width, rows): (usize, usize),
) -> Result<Vec<u8>, String> {
    use hayro_jpeg2000::{DecodeSettings, DecoderContext, Image};
    const START: &[u8] = b"\xff\x4f\xff\x51";
    // The codestream's size record: how many components, and how they are thinned.
    let start = data
        .windows(START.len())
        .take(4096)
        .position(|w| w == START);
    let stream = start.and_then(|at| data.get(at..)).unwrap_or_default();
    let components = stream.get(40..42).map(|n| u16::from_be_bytes([n[0], n[1]]));
    let thinned = match components {
        None => return Err("is not JPEG 2000".into()),
        Some(1) => false,
        Some(3) => stream
            .get(42..51)
            .is_some_and(|c| c[1..3] != c[4..6] || c[1..3] != c[7..9]),
        Some(n) => return Err(format!("is JPEG 2000 of {n} components, not 1 or 3")),
    };
    let damaged = |e: hayro_jpeg2000::DecodeError| format!("the JPEG 2000 data are damaged ({e})");
    let settings = DecodeSettings {
        strict: true,
        ..DecodeSettings::default()
    };
    let image = Image::new(stream, &settings).map_err(damaged)?;
    let size = (image.width() as usize, image.height() as usize);
    if size != (width, rows) {
        return Err(format!(
            "is JPEG 2000 of {} x {} px in place of {width} x {rows}",
            size.0, size.1
        ));
    }
    if image.original_bit_depth() != 8 {
        return Err(format!(
            "is JPEG 2000 of {} bits a sample, not 8",
            image.original_bit_depth()
        ));
    }
    let mut context = DecoderContext::default();
    let decoded = image.decode(&mut context).map_err(damaged)?;
    let samples = decoded.data_u8();
    if components == Some(1) {
        return Ok(samples.into_iter().flat_map(|v| [v; 3]).collect());
    }
    if samples.len() != width * rows * 3 {
        return Err("is JPEG 2000 without three full components".into());
    }
    // Thinned chroma is converted by the decoder already.
    Ok(if colours == Colours::YCbCr && !thinned {
        samples.chunks_exact(3).flat_map(from_ycbcr).collect()
    } else {
        samples
    })
}

/// JFIF's full-range YCbCr as RGB.
fn from_ycbcr(pixel: &[u8]) -> [u8; 3] {
    let y = f32::from(pixel[0]);
    let cb = f32::from(pixel[1]) - 128.0;
    let cr = f32::from(pixel[2]) - 128.0;
    [
        y + 1.402 * cr,
        y - 0.344_136 * cb - 0.714_136 * cr,
        y + 1.772 * cb,
    ]
    .map(|v| (v + 0.5) as u8)
}
