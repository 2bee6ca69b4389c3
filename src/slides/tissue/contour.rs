//! Outlines of tissue as GeoJSON, which QuPath opens as annotations.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Mask;

/// A piece of tissue: its outline, then those of its holes. Points are corners
/// of pixels of the mask; a ring's last point is its first.
pub type Rings = Vec<Vec<(usize, usize)>>;

/// East, south, west, north, along the sides of a pixel with it on the right.
const STEPS: [(i64, i64); 4] = [(1, 0), (0, 1), (-1, 0), (0, -1)];

/// The outlines of a mask's pieces, from the top left on.
pub fn trace(mask: &Mask) -> Vec<Rings> {
    let (width, height) = (mask.width as i64, mask.height as i64);
    let set = |x: i64, y: i64| {
        let inside = x >= 0 && y >= 0 && x < width && y < height;
        inside && mask.tissue[(y * width + x) as usize]
    };
    // The pixel on the right of the side that leaves corner (x, y) in a direction.
    let owner = |x: i64, y: i64, d: usize| match d {
        0 => (x, y),
        1 => (x - 1, y),
        2 => (x - 1, y - 1),
        _ => (x, y - 1),
    };
    let is_side = |x: i64, y: i64, d: usize| {
        let (px, py) = owner(x, y, d);
        // North of an eastward side, and so on round.
        let across = [(0, -1), (1, 0), (0, 1), (-1, 0)][d];
        set(px, py) && !set(px + across.0, py + across.1)
    };
    let labels = label(mask);
    let mut walked = vec![0u8; ((width + 1) * (height + 1)) as usize];
    let mut pieces: BTreeMap<usize, Rings> = BTreeMap::new();
    for y in 0..height {
        for x in 0..width {
            // Every ring has an eastward side: an outline's top, a hole's bottom
            // seen from below.
            for start in [0, 2] {
                let (x, y) = if start == 0 { (x, y) } else { (x + 1, y + 1) };
                let corner = |x: i64, y: i64| (y * (width + 1) + x) as usize;
                if !is_side(x, y, start) || walked[corner(x, y)] & (1 << start) != 0 {
                    continue;
                }
                let (px, py) = owner(x, y, start);
                let (mut at, mut d) = ((x, y), start);
                let mut ring = Vec::new();
                let mut last = usize::MAX;
                let mut area = 0;
                loop {
                    walked[corner(at.0, at.1)] |= 1 << d;
                    if d != last {
                        ring.push((at.0 as usize, at.1 as usize));
                        last = d;
                    }
                    let to = (at.0 + STEPS[d].0, at.1 + STEPS[d].1);
                    area += at.0 * to.1 - to.0 * at.1;
                    at = to;
                    // Round the same pixel first: tissue hangs together over sides.
                    let turns = [(d + 1) % 4, d, (d + 3) % 4];
                    let Some(next) = turns.into_iter().find(|&d| is_side(at.0, at.1, d)) else {
                        break;
                    };
                    d = next;
                    if at == (x, y) && d == start {
                        break;
                    }
                }
                ring.push(ring[0]);
                let rings = pieces
                    .entry(labels[(py * width + px) as usize])
                    .or_default();
                if area > 0 {
                    rings.insert(0, ring);
                } else {
                    rings.push(ring);
                }
            }
        }
    }
    pieces.into_values().collect()
}

/// The first pixel of each pixel's piece.
fn label(mask: &Mask) -> Vec<usize> {
    let mut labels = vec![usize::MAX; mask.tissue.len()];
    let mut stack = Vec::new();
    for start in 0..labels.len() {
        if !mask.tissue[start] || labels[start] != usize::MAX {
            continue;
        }
        stack.push(start);
        labels[start] = start;
        while let Some(at) = stack.pop() {
            let (x, y) = (at % mask.width, at / mask.width);
            let sides = [
                (x > 0).then(|| at - 1),
                (x + 1 < mask.width).then(|| at + 1),
                (y > 0).then(|| at - mask.width),
                (y + 1 < mask.height).then(|| at + mask.width),
            ];
            for to in sides.into_iter().flatten() {
                if mask.tissue[to] && labels[to] == usize::MAX {
                    labels[to] = start;
                    stack.push(to);
                }
            }
        }
    }
    labels
}

/// The outlines in pixels of level 0.
pub fn geojson(mask: &Mask) -> Value {
    let feature = |(i, rings): (usize, Rings)| {
        let point = |&(x, y): &(usize, usize)| {
            json!([
                (x as f64 * mask.step.0 * 100.0).round() / 100.0,
                (y as f64 * mask.step.1 * 100.0).round() / 100.0
            ])
        };
        let rings: Vec<Vec<Value>> = (rings.iter())
            .map(|ring| ring.iter().map(point).collect())
            .collect();
        json!({
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": rings},
            "properties": {
                "objectType": "annotation",
                "name": format!("tissue {i}"),
                "classification": {"name": "Tissue", "color": [0, 160, 90]},
            },
        })
    };
    let features: Vec<Value> = trace(mask).into_iter().enumerate().map(feature).collect();
    json!({"type": "FeatureCollection", "features": features})
}
