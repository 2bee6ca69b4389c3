//! Shapes of masks: growing, shrinking, and pieces by their area.

/// Every pixel with one that is set within `reach` px across and down.
pub fn dilate(mask: &[bool], width: usize, reach: usize) -> Vec<bool> {
    spread(mask, width, reach, true)
}

/// Grows by `reach`, then shrinks by as much: gaps close, outlines stay.
pub fn close(mask: &[bool], width: usize, reach: usize) -> Vec<bool> {
    spread(&spread(mask, width, reach, true), width, reach, false)
}

/// Spreads the pixels of `value`. What lies beyond the border counts as neither.
fn spread(mask: &[bool], width: usize, reach: usize, value: bool) -> Vec<bool> {
    if reach == 0 || width == 0 {
        return mask.to_vec();
    }
    let height = mask.len() / width;
    let mut rows = vec![!value; mask.len()];
    for y in 0..height {
        let row = &mask[y * width..(y + 1) * width];
        run(
            |x| row[x] == value,
            width,
            reach,
            |x| rows[y * width + x] = value,
        );
    }
    let mut out = vec![!value; mask.len()];
    for x in 0..width {
        run(
            |y| rows[y * width + x] == value,
            height,
            reach,
            |y| out[y * width + x] = value,
        );
    }
    out
}

/// Calls `mark` for each place within `reach` of one that is `set`.
fn run(set: impl Fn(usize) -> bool, len: usize, reach: usize, mut mark: impl FnMut(usize)) {
    let mut marked = 0;
    for at in (0..len).filter(|&i| set(i)) {
        for i in marked.max(at.saturating_sub(reach))..(at + reach + 1).min(len) {
            mark(i);
        }
        marked = marked.max((at + reach + 1).min(len));
    }
}

/// Turns pieces of `value` of fewer than `area` pixels into their surroundings.
/// Tissue hangs together over sides, its holes over corners too. A hole at the
/// border of the slide is none.
pub fn drop_small(mask: &mut [bool], width: usize, value: bool, area: usize) {
    if width == 0 {
        return;
    }
    let height = mask.len() / width;
    let mut seen = vec![false; mask.len()];
    let mut piece = Vec::new();
    for start in 0..mask.len() {
        if seen[start] || mask[start] != value {
            continue;
        }
        piece.clear();
        piece.push(start);
        seen[start] = true;
        let mut next = 0;
        let mut at_border = false;
        while let Some(&at) = piece.get(next) {
            next += 1;
            let (x, y) = (at % width, at / width);
            at_border |= x == 0 || y == 0 || x + 1 == width || y + 1 == height;
            for dy in -1i64..=1 {
                for dx in -1i64..=1 {
                    let corner = dx != 0 && dy != 0;
                    let (x, y) = (x as i64 + dx, y as i64 + dy);
                    let inside = x >= 0 && y >= 0 && x < width as i64 && y < height as i64;
                    if !inside || (corner && value) {
                        continue;
                    }
                    let to = y as usize * width + x as usize;
                    if !seen[to] && mask[to] == value {
                        seen[to] = true;
                        piece.push(to);
                    }
                }
            }
        }
        if piece.len() < area && (value || !at_border) {
            for &at in &piece {
                mask[at] = !value;
            }
        }
    }
}
