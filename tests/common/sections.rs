//! A small folder in her2st layout, made up: spots are pale or dark, and the gene
//! `planted` is high where they are dark.

use std::fs;
use std::path::Path;

use eosin::random::Philox;
use eosin::slides::Rgb8;
use eosin::slides::image::write_png;

/// Sections of three patients.
pub const SECTIONS: [&str; 4] = ["A1", "A2", "B1", "C1"];
pub const GENES: [&str; 4] = ["planted", "noise1", "noise2", "steady"];
/// From a spot to the next, and the side of its tile.
pub const PITCH: usize = 40;
pub const TILE: usize = 32;
/// Spots in a row and in a column.
pub const SIDE: [usize; 2] = [4, 3];

/// Writes the folder.
pub fn write(root: &Path) {
    for (number, section) in SECTIONS.into_iter().enumerate() {
        write_section(root, section, number as u64);
    }
}

fn put(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("create folders");
    fs::write(path, content).expect("write a test file");
}

fn write_section(root: &Path, section: &str, seed: u64) {
    let [columns, rows] = SIDE;
    let mut random = Philox::new(100 + seed);
    let (width, height) = (columns * PITCH, rows * PITCH);
    let mut image = Rgb8 {
        width,
        height,
        data: vec![250; width * height * 3],
    };
    let mut spots = String::from("x\ty\tpixel_x\tpixel_y\tselected\n");
    let mut counts = format!("\t{}\n", GENES.join("\t"));
    for spot in 0..columns * rows {
        let (x, y) = (spot % columns, spot / columns);
        let dark = random.below(2) == 1 || spot == 0;
        let dark = dark && spot != 1;
        let mut grain = vec![0.0f32; PITCH * PITCH];
        random.fill_uniform(&mut grain, 0.0, 40.0);
        for (i, grain) in grain.into_iter().enumerate() {
            let (px, py) = (x * PITCH + i % PITCH, y * PITCH + i / PITCH);
            let colour = if dark {
                [110, 60, 140]
            } else {
                [220, 150, 200]
            };
            for (c, level) in colour.into_iter().enumerate() {
                image.data[(py * width + px) * 3 + c] = level + grain as u8 / (1 + c as u8);
            }
        }
        let (px, py) = (x * PITCH + PITCH / 2, y * PITCH + PITCH / 2);
        spots += &format!("{x}\t{y}\t{px}\t{py}\t1\n");
        let noise = [random.below(20) + 10, random.below(20) + 10];
        let planted = if dark { 80 } else { 4 } + random.below(4);
        counts += &format!("{x}x{y}\t{planted}\t{}\t{}\t30\n", noise[0], noise[1]);
    }
    let patient = &section[..1];
    let folder = root.join("ST-imgs").join(patient).join(section);
    fs::create_dir_all(&folder).expect("create folders");
    write_png(folder.join("section.png"), &image, &[]).expect("write a PNG");
    let spot_file = format!("ST-spotfiles/{section}_selection.tsv");
    put(&root.join(spot_file), &spots);
    put(&root.join(format!("ST-cnts/{section}.tsv")), &counts);
}
