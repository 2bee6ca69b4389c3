//! One tile of tissue: where the stains are, and what a camera sees of it.
//!
//! Two maps are painted, the amounts of haematoxylin and eosin per pixel, and
//! Beer-Lambert's law turns them into transmitted light: an optical density per
//! colour channel is the sum of each stain's amount times its absorption.
//!
//! Nuclear size must not show in a tile's mean colour. So nuclei are placed
//! until they cover the share of the tile that the density factor asks for,
//! whatever their size, and everything that belongs to a nucleus or a gland
//! (soft rim, chromatin, lumen, cytoplasm) is drawn in units of the nuclear
//! radius. A larger radius is then a coarser grain of the same pixels: size
//! changes the texture and leaves the distribution of colours alone.

use std::f32::consts::{PI, TAU};

use super::noise::{Field, step};
use super::rng::Rng;

/// What a slide's tissue and staining are like.
#[derive(Clone, Debug)]
pub(super) struct Tissue {
    /// Share of the tile that nuclei cover.
    pub coverage: f64,
    /// Nuclear radius in pixels: that of a circle of the same area.
    pub radius: f64,
    /// Share of the nuclear area that is arranged in rings around lumina.
    pub glands: f64,
    /// Strength of each stain, 1 being ordinary.
    pub haematoxylin: f64,
    pub eosin: f64,
    /// Optical density per channel (R, G, B) of one unit of each stain.
    pub stains: [[f32; 3]; 2],
}

/// Absorption of haematoxylin and eosin in R, G, B (Macenko et al. 2009's
/// reference stain vectors, as widely used).
pub(super) const STAINS: [[f32; 3]; 2] = [[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]];

/// What an empty part of the slide sends to the camera.
const WHITE: [f32; 3] = [246.0, 244.0, 247.0];
/// Standard deviation of the sensor's noise, in grey levels.
const SENSOR_NOISE: f32 = 1.3;

/// Renders one tile of `side` x `side` pixels as RGB rows.
pub(super) fn render(tissue: &Tissue, side: usize, rng: &mut Rng) -> Vec<u8> {
    let mut canvas = Canvas::new(side);
    let grain = Grain::new(rng);
    let target = tissue.coverage * rng.factor(0.06) * (side * side) as f64;
    let share = (tissue.glands + 0.05 * rng.normal()).clamp(0.0, 0.8);
    let radius = tissue.radius * rng.factor(0.03);

    canvas.stroma(&grain);
    let glands = canvas.glands(radius, target * share, rng);
    canvas.fill(radius, target, &glands, &grain, rng);
    canvas.photograph(tissue, rng)
}

/// The texture of a tile's connective tissue.
struct Grain {
    angle: (f32, f32),
    broad: Field,
    bend: Field,
    fibre: Field,
    thread: Field,
    cleft: Field,
    crowd: Field,
}

impl Grain {
    fn new(rng: &mut Rng) -> Self {
        let mut field = || Field::new(rng.next_u64());
        let (broad, bend, fibre) = (field(), field(), field());
        let (thread, cleft, crowd) = (field(), field(), field());
        Self {
            angle: libm::sincosf(rng.range(0.0, TAU.into()) as f32),
            broad,
            bend,
            fibre,
            thread,
            cleft,
            crowd,
        }
    }

    /// Coordinates along and across the bent fibres.
    fn along(&self, x: f32, y: f32) -> (f32, f32) {
        let (sin, cos) = self.angle;
        let (u, v) = (x * cos + y * sin, y * cos - x * sin);
        (u, v + 46.0 * (self.bend.octaves(x / 95.0, y / 95.0) - 0.5))
    }

    /// Angle of the fibres at a point.
    fn direction(&self, x: f32, y: f32) -> f32 {
        let (sin, cos) = self.angle;
        let across = |x, y| self.along(x, y).1;
        let d_x = across(x + 2.0, y) - across(x - 2.0, y);
        let d_y = across(x, y + 2.0) - across(x, y - 2.0);
        // Fibres are where `across` is constant: at right angles to its gradient.
        if d_x == 0.0 && d_y == 0.0 {
            return libm::atan2f(sin, cos);
        }
        libm::atan2f(-d_x, d_y)
    }
}

/// A ring of columnar cells around a lumen.
struct Gland {
    x: f32,
    y: f32,
    /// Mean radius of the basal border, of the ring of nuclei and of the lumen.
    outer: f32,
    ring: f32,
    lumen: f32,
    cells: usize,
    /// Squeeze along a direction, and waves of the outline.
    squeeze: f32,
    turn: f32,
    waves: [(f32, f32); 2],
    grain: Field,
}

impl Gland {
    fn random(radius: f64, side: f64, rng: &mut Rng) -> Self {
        let cells = 12 + rng.below(5);
        // Neighbours touch: a nucleus is 1.7 radii wide across its long axis.
        let ring = cells as f64 * 1.82 * radius / f64::from(TAU);
        let wave = |rng: &mut Rng, height| {
            (
                rng.range(0.0, height) as f32,
                rng.range(0.0, TAU.into()) as f32,
            )
        };
        Self {
            x: rng.range(-0.5 * ring, side + 0.5 * ring) as f32,
            y: rng.range(-0.5 * ring, side + 0.5 * ring) as f32,
            outer: (ring + 1.7 * radius) as f32,
            ring: ring as f32,
            lumen: (ring - 1.65 * radius) as f32,
            cells,
            squeeze: rng.range(0.02, 0.20) as f32,
            turn: rng.range(0.0, TAU.into()) as f32,
            waves: [wave(rng, 0.06), wave(rng, 0.05)],
            grain: Field::new(rng.next_u64()),
        }
    }

    /// The outline's distance from the centre at an angle, 1 on average.
    fn outline(&self, angle: f32) -> f32 {
        let a = angle - self.turn;
        1.0 + self.squeeze * libm::cosf(2.0 * a)
            + self.waves[0].0 * libm::cosf(3.0 * a + self.waves[0].1)
            + self.waves[1].0 * libm::cosf(5.0 * a + self.waves[1].1)
    }

    /// Distance from the centre as if the gland were round.
    fn distance(&self, x: f32, y: f32) -> f32 {
        let (dx, dy) = (x - self.x, y - self.y);
        let distance = (dx * dx + dy * dy).sqrt();
        // Far away the outline does not matter, and it is costly.
        if distance > 1.4 * self.outer {
            return distance;
        }
        distance / self.outline(libm::atan2f(dy, dx))
    }

    fn clear_of(&self, other: &Self) -> bool {
        let (dx, dy) = (self.x - other.x, self.y - other.y);
        let apart = self.outer + other.outer;
        dx * dx + dy * dy > apart * apart
    }
}

struct Nucleus {
    x: f32,
    y: f32,
    /// Half axes in pixels; the first lies along `angle`.
    axes: (f32, f32),
    angle: f32,
    /// Mean haematoxylin, 1 being ordinary.
    chromatin: f32,
    /// How strongly chromatin is clumped, and gathered under the rim.
    clumps: f32,
    rim: f32,
    nucleoli: [(f32, f32); 2],
    grain: Field,
}

impl Nucleus {
    fn new(at: (f32, f32), radius: f64, aspect: f64, angle: f32, rng: &mut Rng) -> Self {
        let radius = radius * rng.factor(0.10);
        let stretch = aspect.sqrt();
        let mut nucleolus = || {
            let distance = rng.range(0.0, 0.5) as f32;
            let (sin, cos) = libm::sincosf(rng.range(0.0, TAU.into()) as f32);
            (distance * cos, distance * sin)
        };
        let nucleoli = [nucleolus(), nucleolus()];
        Self {
            x: at.0,
            y: at.1,
            axes: ((radius * stretch) as f32, (radius / stretch) as f32),
            angle,
            chromatin: rng.factor(0.14) as f32,
            clumps: rng.range(0.35, 0.75) as f32,
            rim: rng.range(0.15, 0.5) as f32,
            nucleoli,
            grain: Field::new(rng.next_u64()),
        }
    }

    fn area(&self) -> f64 {
        f64::from(PI * self.axes.0 * self.axes.1)
    }
}

/// The amounts of stain on a tile, side * side pixels each.
struct Canvas {
    side: usize,
    /// Share of a pixel that is nucleus, and the chromatin in it.
    nuclear: Vec<f32>,
    chromatin: Vec<f32>,
    /// Eosin, and the faint haematoxylin of cytoplasm.
    eosin: Vec<f32>,
    cytoplasm: Vec<f32>,
}

impl Canvas {
    fn new(side: usize) -> Self {
        let empty = vec![0.0; side * side];
        Self {
            side,
            nuclear: empty.clone(),
            chromatin: empty.clone(),
            eosin: empty.clone(),
            cytoplasm: empty,
        }
    }

    /// The pixels of a square around a point, as far as they are on the tile.
    fn square(
        &self,
        x: f32,
        y: f32,
        reach: f32,
    ) -> impl Iterator<Item = (usize, f32, f32)> + use<> {
        let side = self.side;
        let span = move |centre: f32| {
            let low = (centre - reach).floor().clamp(0.0, side as f32) as usize;
            let high = (centre + reach).ceil().clamp(0.0, side as f32) as usize;
            low..high
        };
        span(y).flat_map(move |j| span(x).map(move |i| (j * side + i, i as f32, j as f32)))
    }

    fn nuclear_at(&self, x: f32, y: f32) -> f32 {
        let last = self.side as f32 - 1.0;
        let (i, j) = (x.clamp(0.0, last) as usize, y.clamp(0.0, last) as usize);
        self.nuclear[j * self.side + i]
    }

    /// Collagen: broad shades, fibres, threads, and clefts that let light through.
    fn stroma(&mut self, grain: &Grain) {
        for j in 0..self.side {
            for i in 0..self.side {
                let (x, y) = (i as f32, j as f32);
                let (u, v) = grain.along(x, y);
                let broad = grain.broad.octaves(x / 60.0, y / 60.0);
                let fibre = grain.fibre.at(u / 52.0, v / 6.5);
                let thread = grain.thread.at(u / 24.0, v / 2.3);
                let ridge = 1.0 - (2.0 * grain.cleft.at(u / 74.0, v / 15.0) - 1.0).abs();
                let cleft =
                    step(0.86, 0.99, ridge) * step(0.56, 0.76, grain.crowd.at(x / 50.0, y / 50.0));
                let amount = (0.65 + 0.18 * broad) * (0.74 + 0.30 * fibre + 0.20 * thread);
                let p = j * self.side + i;
                self.eosin[p] = amount * (1.0 - 0.85 * cleft);
                self.cytoplasm[p] = 0.07 * (0.6 + 0.8 * broad) * (1.0 - 0.85 * cleft);
            }
        }
    }

    /// Draws glands until their nuclei cover `target` pixels.
    fn glands(&mut self, radius: f64, target: f64, rng: &mut Rng) -> Vec<Gland> {
        let mut glands: Vec<Gland> = Vec::new();
        let mut painted = 0.0;
        for _ in 0..400 {
            let gland = Gland::random(radius, self.side as f64, rng);
            if !glands.iter().all(|g| g.clear_of(&gland)) {
                continue;
            }
            let expected = gland.cells as f64 * f64::from(PI) * radius * radius;
            if !affordable(target - painted, expected, rng) {
                break;
            }
            self.epithelium(&gland, radius as f32);
            painted += self.ring(&gland, radius, rng);
            glands.push(gland);
            if painted >= target {
                break;
            }
        }
        glands
    }

    /// Cytoplasm, brush border, basement membrane and lumen of a gland.
    fn epithelium(&mut self, gland: &Gland, radius: f32) {
        for (p, x, y) in self.square(gland.x, gland.y, 1.35 * gland.outer) {
            let d = gland.distance(x, y);
            let inside = step(gland.outer + 0.12 * radius, gland.outer - 0.12 * radius, d);
            if inside == 0.0 {
                continue;
            }
            let grain = gland.grain.octaves(x / (0.9 * radius), y / (0.9 * radius));
            let open = step(gland.lumen + 0.14 * radius, gland.lumen - 0.14 * radius, d);
            let border = step(0.5 * radius, 0.0, (d - gland.lumen - 0.2 * radius).abs());
            let basement = step(0.35 * radius, 0.0, (d - gland.outer + 0.1 * radius).abs());
            let tissue = 1.0 - open;
            let eosin = tissue * (0.22 + 0.30 * grain + 0.22 * border + 0.30 * basement)
                + open * 0.035 * grain;
            let haze = tissue * (0.10 + 0.12 * grain);
            self.eosin[p] += inside * (eosin - self.eosin[p]);
            self.cytoplasm[p] += inside * (haze - self.cytoplasm[p]);
        }
    }

    /// The basal nuclei of a gland; returns the pixels that they cover.
    fn ring(&mut self, gland: &Gland, radius: f64, rng: &mut Rng) -> f64 {
        let start = rng.range(0.0, TAU.into()) as f32;
        let mut painted = 0.0;
        for cell in 0..gland.cells {
            let place = cell as f32 + 0.22 * rng.normal() as f32;
            let angle = start + TAU * place / gland.cells as f32;
            let distance =
                gland.outline(angle) * (gland.ring + (0.16 * radius * rng.normal()) as f32);
            let (sin, cos) = libm::sincosf(angle);
            let at = (gland.x + distance * cos, gland.y + distance * sin);
            let lean = angle + 0.12 * rng.normal() as f32;
            let aspect = rng.range(1.25, 1.75);
            painted += self.nucleus(&Nucleus::new(at, radius, aspect, lean, rng));
        }
        painted
    }

    /// Scatters single nuclei outside glands until all nuclei cover `target` pixels.
    fn fill(&mut self, radius: f64, target: f64, glands: &[Gland], grain: &Grain, rng: &mut Rng) {
        let mut painted: f64 = self.nuclear.iter().map(|&n| f64::from(n)).sum();
        let side = self.side as f64;
        // A bound for the case that nuclei no longer find room.
        let attempts = (8.0 * side * side / (radius * radius)) as usize + 100;
        for _ in 0..attempts {
            if painted >= target {
                break;
            }
            let nucleus = self.scattered(radius, glands, grain, rng);
            if !affordable(target - painted, nucleus.area(), rng) {
                break;
            }
            painted += self.nucleus(&nucleus);
        }
    }

    /// A nucleus of the stroma, where there is room for one.
    fn scattered(&self, radius: f64, glands: &[Gland], grain: &Grain, rng: &mut Rng) -> Nucleus {
        let side = self.side as f64;
        let r = radius as f32;
        let mut tries = 0;
        loop {
            tries += 1;
            let x = rng.range(-radius, side + radius) as f32;
            let y = rng.range(-radius, side + radius) as f32;
            let spindle = rng.uniform() < 0.38;
            let (aspect, angle, dark) = if spindle {
                let along = grain.direction(x, y) + 0.15 * rng.normal() as f32;
                (rng.range(2.2, 3.4), along, 1.2)
            } else {
                (rng.range(1.0, 1.45), rng.range(0.0, PI.into()) as f32, 1.0)
            };
            let mut nucleus = Nucleus::new((x, y), radius, aspect, angle, rng);
            nucleus.chromatin *= dark;
            if tries > 60 {
                return nucleus;
            }
            let crowded = grain.crowd.octaves(x / 50.0, y / 50.0);
            if rng.uniform() as f32 > step(0.25, 0.75, 1.0 - crowded) {
                continue;
            }
            if glands.iter().any(|g| g.distance(x, y) < g.outer + 0.7 * r) {
                continue;
            }
            let (sin, cos) = libm::sincosf(angle);
            let free = [(0.0, 0.0), (1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)]
                .iter()
                .all(|&(s, t)| {
                    let (a, b) = (s * nucleus.axes.0, t * nucleus.axes.1);
                    self.nuclear_at(x + a * cos - b * sin, y + a * sin + b * cos) < 0.3
                });
            if free {
                return nucleus;
            }
        }
    }

    /// Paints a nucleus; returns how many pixels more are nucleus now.
    fn nucleus(&mut self, n: &Nucleus) -> f64 {
        let (sin, cos) = libm::sincosf(n.angle);
        let mut gained = 0.0;
        for (p, x, y) in self.square(n.x, n.y, 1.3 * n.axes.0.max(n.axes.1)) {
            let (dx, dy) = (x - n.x, y - n.y);
            let u = (dx * cos + dy * sin) / n.axes.0;
            let v = (dy * cos - dx * sin) / n.axes.1;
            let dent = 0.16 * (n.grain.at(1.3 * u + 20.0, 1.3 * v) - 0.5);
            let d = (u * u + v * v).sqrt() + dent;
            let body = step(1.12, 0.88, d);
            if body == 0.0 {
                continue;
            }
            let clump = n.grain.octaves(2.1 * u + 7.0, 2.1 * v + 3.0) - 0.5;
            let rim = step(0.55, 0.92, d);
            let spot: f32 = n
                .nucleoli
                .iter()
                .map(|&(a, b)| step(0.24, 0.08, ((u - a) * (u - a) + (v - b) * (v - b)).sqrt()))
                .sum();
            let texture =
                (1.0 + 2.0 * n.clumps * clump + n.rim * (rim - 0.4) + 0.35 * spot).max(0.2);
            let old = self.nuclear[p];
            if body > old {
                gained += f64::from(body - old);
                self.nuclear[p] = body;
            }
            // Where two overlap, the darker one shows and the other deepens it a little.
            let amount = body * n.chromatin * texture;
            let (low, high) = if amount < self.chromatin[p] {
                (amount, self.chromatin[p])
            } else {
                (self.chromatin[p], amount)
            };
            self.chromatin[p] = high + 0.25 * low;
        }
        gained
    }

    /// Beer-Lambert, the blur of the optics and the noise of the sensor.
    fn photograph(&self, tissue: &Tissue, rng: &mut Rng) -> Vec<u8> {
        let side = self.side;
        let h_strength = tissue.haematoxylin as f32;
        let e_strength = tissue.eosin as f32;
        let mut light = vec![0.0f32; 3 * side * side];
        for (p, rgb) in light.chunks_exact_mut(3).enumerate() {
            let h = h_strength * (1.18 * self.chromatin[p] + self.cytoplasm[p]);
            let e = e_strength * self.eosin[p] * (1.0 - 0.45 * self.nuclear[p]);
            for (c, value) in rgb.iter_mut().enumerate() {
                let density = h * tissue.stains[0][c] + e * tissue.stains[1][c];
                *value = WHITE[c] * libm::expf(-density);
            }
        }
        let light = blur(&light, side);
        let mut pixels = Vec::with_capacity(light.len());
        for pair in light.chunks(2) {
            let noise = rng.normal_pair();
            for (value, z) in pair.iter().zip([noise.0, noise.1]) {
                pixels.push((value + SENSOR_NOISE * z + 0.5).clamp(0.0, 255.0) as u8);
            }
        }
        pixels
    }
}

/// Whether to add something of size `cost` when `left` remains: always while it
/// fits, else with the probability that makes the expected total exact.
fn affordable(left: f64, cost: f64, rng: &mut Rng) -> bool {
    left >= cost || rng.uniform() * cost < left
}

/// A lens as sharp as a good scanner's: weights 1 6 1 along each axis, on light
/// and not on density, so that the mean colour stays.
fn blur(light: &[f32], side: usize) -> Vec<f32> {
    let pass = |from: &[f32], stride: usize, line: usize| -> Vec<f32> {
        (0..from.len())
            .map(|i| {
                let position = i / stride % line;
                let before = if position == 0 { i } else { i - stride };
                let after = if position + 1 == line { i } else { i + stride };
                0.125 * (from[before] + 6.0 * from[i] + from[after])
            })
            .collect()
    };
    let across = pass(light, 3, side);
    pass(&across, 3 * side, side)
}
