//! Writes small TIFF files, sound and unsound ones, for the tests of slides.

use std::io::Write;

use eosin::slides::Rgb8;

#[derive(Clone, Copy, PartialEq)]
#[allow(dead_code, reason = "each test binary needs some of it")]
pub enum Packing {
    None,
    Lzw,
    /// With horizontal differences.
    LzwDifferences,
    Deflate,
}

/// One picture of a file.
pub struct Page<'a> {
    pub image: &'a Rgb8,
    /// Sides of its tiles; strips of so many rows where the first is 0.
    pub cut: (usize, usize),
    pub packing: Packing,
    /// Further tags: number, kind, values.
    pub tags: Vec<(u16, u16, Vec<u64>)>,
    pub description: &'a str,
}

impl<'a> Page<'a> {
    pub fn new(image: &'a Rgb8, cut: (usize, usize), packing: Packing) -> Self {
        Self {
            image,
            cut,
            packing,
            tags: Vec::new(),
            description: "",
        }
    }
}

/// How numbers are written.
#[derive(Clone, Copy)]
pub struct Style {
    pub big: bool,
    pub little: bool,
}

pub const CLASSIC: Style = Style {
    big: false,
    little: true,
};

impl Style {
    fn number(self, value: u64, bytes: usize) -> Vec<u8> {
        let mut out = value.to_le_bytes()[..bytes].to_vec();
        if !self.little {
            out.reverse();
        }
        out
    }

    fn word(self) -> usize {
        if self.big { 8 } else { 4 }
    }
}

fn size(kind: u16) -> usize {
    match kind {
        1 | 2 | 7 => 1,
        3 => 2,
        4 => 4,
        _ => 8,
    }
}

/// A file of these pictures, in this order.
pub fn tiff(style: Style, pages: &[Page]) -> Vec<u8> {
    let mut out = if style.little {
        b"II".to_vec()
    } else {
        b"MM".to_vec()
    };
    if style.big {
        for n in [43, 8, 0] {
            out.extend(style.number(n, 2));
        }
    } else {
        out.extend(style.number(42, 2));
    }
    // Where the place of the next directory is to be written.
    let mut link = out.len();
    out.extend(style.number(0, style.word()));
    for page in pages {
        let mut places = Vec::new();
        let mut lengths = Vec::new();
        for chunk in chunks(page) {
            let packed = pack(&chunk, page);
            places.push(out.len() as u64);
            lengths.push(packed.len() as u64);
            out.extend(packed);
        }
        let (width, height) = (page.image.width as u64, page.image.height as u64);
        let packing = match page.packing {
            Packing::None => 1,
            Packing::Lzw | Packing::LzwDifferences => 5,
            Packing::Deflate => 8,
        };
        let list = if style.big { 16 } else { 4 };
        let mut tags = vec![
            (256, 4, vec![width]),
            (257, 4, vec![height]),
            (258, 3, vec![8, 8, 8]),
            (259, 3, vec![packing]),
            (262, 3, vec![2]),
            (277, 3, vec![3]),
        ];
        if page.packing == Packing::LzwDifferences {
            tags.push((317, 3, vec![2]));
        }
        if page.cut.0 == 0 {
            tags.push((273, list, places));
            tags.push((278, 4, vec![page.cut.1 as u64]));
            tags.push((279, list, lengths));
        } else {
            tags.push((322, 4, vec![page.cut.0 as u64]));
            tags.push((323, 4, vec![page.cut.1 as u64]));
            tags.push((324, list, places));
            tags.push((325, list, lengths));
        }
        if !page.description.is_empty() {
            let text = page.description.bytes().map(u64::from).chain([0]);
            tags.push((270, 2, text.collect()));
        }
        for tag in &page.tags {
            tags.retain(|t| t.0 != tag.0);
            tags.push(tag.clone());
        }
        tags.sort_by_key(|t| t.0);
        link = directory(style, &mut out, link, &tags);
    }
    out
}

/// Appends a directory and links it; returns where the next one is to be linked.
fn directory(style: Style, out: &mut Vec<u8>, link: usize, tags: &[(u16, u16, Vec<u64>)]) -> usize {
    let mut entries = Vec::new();
    for (tag, kind, values) in tags {
        // A fraction is two numbers of four bytes.
        let (bytes, count) = match kind {
            5 => (4, values.len() / 2),
            _ => (size(*kind), values.len()),
        };
        let mut stored: Vec<u8> = values
            .iter()
            .flat_map(|&v| style.number(v, bytes))
            .collect();
        if stored.len() > style.word() {
            let place = out.len() as u64;
            out.extend(&stored);
            stored = style.number(place, style.word());
        }
        stored.resize(style.word(), 0);
        entries.extend(style.number((*tag).into(), 2));
        entries.extend(style.number((*kind).into(), 2));
        entries.extend(style.number(count as u64, style.word()));
        entries.extend(stored);
    }
    let place = style.number(out.len() as u64, style.word());
    out[link..link + style.word()].copy_from_slice(&place);
    out.extend(style.number(tags.len() as u64, if style.big { 8 } else { 2 }));
    out.extend(entries);
    let next = out.len();
    out.extend(style.number(0, style.word()));
    next
}

/// The pixels of each tile, padded with 7, or of each strip.
fn chunks(page: &Page) -> Vec<Vec<u8>> {
    let image = page.image;
    let (wide, high) = match page.cut {
        (0, rows) => (image.width, rows),
        cut => cut,
    };
    let mut all = Vec::new();
    for top in (0..image.height).step_by(high) {
        for left in (0..image.width).step_by(wide) {
            let rows = if page.cut.0 == 0 {
                high.min(image.height - top)
            } else {
                high
            };
            let mut chunk = Vec::new();
            for y in top..top + rows {
                for x in left..left + wide {
                    let at = (y * image.width + x) * 3;
                    let inside = x < image.width && y < image.height;
                    chunk.extend(if inside {
                        &image.data[at..at + 3]
                    } else {
                        &[7; 3]
                    });
                }
            }
            all.push(chunk);
        }
    }
    all
}

fn pack(chunk: &[u8], page: &Page) -> Vec<u8> {
    use weezl::BitOrder::Msb;
    let lzw = |data: &[u8]| weezl::encode::Encoder::with_tiff_size_switch(Msb, 8).encode(data);
    match page.packing {
        Packing::None => chunk.to_vec(),
        Packing::Lzw => lzw(chunk).expect("LZW"),
        Packing::LzwDifferences => {
            let wide = if page.cut.0 == 0 {
                page.image.width
            } else {
                page.cut.0
            };
            let mut data = chunk.to_vec();
            for row in data.chunks_exact_mut(wide * 3) {
                for i in (3..row.len()).rev() {
                    row[i] = row[i].wrapping_sub(row[i - 3]);
                }
            }
            lzw(&data).expect("LZW")
        }
        Packing::Deflate => {
            let mut out = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
            out.write_all(chunk).expect("deflate");
            out.finish().expect("deflate")
        }
    }
}
