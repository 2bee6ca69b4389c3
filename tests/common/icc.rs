//! Writes a colour profile by hand: primaries and a gamma for each, ICC version 2.

/// The primaries of Display P3, as XYZ under D50.
pub const P3: [[f64; 3]; 3] = [
    [0.5151, 0.2412, -0.0011],
    [0.2919, 0.6922, 0.0419],
    [0.1572, 0.0666, 0.7841],
];

fn fixed(values: [f64; 3]) -> Vec<u8> {
    let bytes = values.map(|v| ((v * 65536.0).round() as i32).to_be_bytes());
    bytes.concat()
}

/// A profile of a display; `space` is `RGB ` but where it is meant to be refused.
pub fn profile(primaries: [[f64; 3]; 3], gamma: [f64; 3], space: &[u8; 4]) -> Vec<u8> {
    const WHITE: [f64; 3] = [0.9642, 1.0, 0.8249];
    let xyz = |v| [b"XYZ \0\0\0\0".to_vec(), fixed(v)].concat();
    let mut name = b"desc\0\0\0\0\0\0\0\x08by hand\0".to_vec();
    name.resize(name.len() + 78, 0);
    name.resize(name.len().next_multiple_of(4), 0);
    let mut tags = vec![
        (*b"desc", name),
        (*b"cprt", b"text\0\0\0\0none\0\0\0\0".to_vec()),
        (*b"wtpt", xyz(WHITE)),
    ];
    for (c, &letter) in b"rgb".iter().enumerate() {
        let mut curve = b"curv\0\0\0\0\0\0\0\x01".to_vec();
        curve.extend(((gamma[c] * 256.0).round() as u16).to_be_bytes());
        curve.extend([0, 0]);
        tags.push(([letter, b'X', b'Y', b'Z'], xyz(primaries[c])));
        tags.push(([letter, b'T', b'R', b'C'], curve));
    }
    let at = 128 + 4 + 12 * tags.len();
    let (mut table, mut body) = ((tags.len() as u32).to_be_bytes().to_vec(), Vec::new());
    for (name, data) in tags {
        table.extend(name);
        table.extend(((at + body.len()) as u32).to_be_bytes());
        table.extend((data.len() as u32).to_be_bytes());
        body.extend(data);
    }
    let mut out = ((at + body.len()) as u32).to_be_bytes().to_vec();
    out.extend([0, 0, 0, 0, 2, 0x40, 0, 0]);
    out.extend(b"mntr");
    out.extend(space);
    out.extend(b"XYZ ");
    out.extend([0; 12]);
    out.extend(b"acsp");
    out.extend([0; 28]);
    out.extend(fixed(WHITE));
    out.extend([0; 48]);
    out.extend(table);
    out.extend(body);
    out
}

/// As a TIFF file has it: a tag's number, kind and values.
pub fn tag(profile: &[u8]) -> (u16, u16, Vec<u64>) {
    (34675, 7, profile.iter().map(|&b| b.into()).collect())
}
