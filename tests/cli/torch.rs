//! Writes `.pth` files as torch.save lays them out, so that a test can leave
//! out, add or misshape what it wants.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use zip::CompressionMethod;
use zip::write::{SimpleFileOptions, ZipWriter};

fn string(pickle: &mut Vec<u8>, text: &str) {
    pickle.push(b'X');
    pickle.extend(u32::try_from(text.len()).expect("short").to_le_bytes());
    pickle.extend(text.as_bytes());
}

fn int(pickle: &mut Vec<u8>, value: usize) {
    pickle.push(b'J');
    pickle.extend(i32::try_from(value).expect("small").to_le_bytes());
}

fn tuple(pickle: &mut Vec<u8>, values: &[usize]) {
    pickle.push(b'(');
    values.iter().for_each(|&v| int(pickle, v));
    pickle.push(b't');
}

/// A state dict of f32 tensors; element i of each is i / 8.
pub fn write_pth(path: &Path, tensors: &[(&str, &[usize])]) {
    let mut pickle = b"\x80\x02}(".to_vec();
    for (number, (key, shape)) in tensors.iter().enumerate() {
        let strides: Vec<usize> = (0..shape.len())
            .map(|axis| shape[axis + 1..].iter().product())
            .collect();
        string(&mut pickle, key);
        pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        string(&mut pickle, "storage");
        pickle.extend(b"ctorch\nFloatStorage\n");
        string(&mut pickle, &number.to_string());
        string(&mut pickle, "cpu");
        int(&mut pickle, shape.iter().product());
        pickle.extend(b"tQ");
        int(&mut pickle, 0);
        tuple(&mut pickle, shape);
        tuple(&mut pickle, &strides);
        pickle.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    pickle.extend(b"u.");
    let storages = tensors.iter().map(|(_, shape)| {
        let count = shape.iter().product::<usize>();
        (0..count)
            .flat_map(|i| (i as f32 / 8.0).to_le_bytes())
            .collect()
    });
    write_archive(path, &pickle, storages.collect());
}

/// A file whose pickle asks for `os.system(command)`.
pub fn write_attack(path: &Path, command: &str) {
    let mut pickle = b"\x80\x02cposix\nsystem\n(".to_vec();
    string(&mut pickle, command);
    pickle.extend(b"tR.");
    write_archive(path, &pickle, Vec::new());
}

fn write_archive(path: &Path, pickle: &[u8], storages: Vec<Vec<u8>>) {
    let mut zip = ZipWriter::new(File::create(path).expect("a new file"));
    let plain = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let mut entry = |name: &str, bytes: &[u8]| {
        zip.start_file(format!("archive/{name}"), plain)
            .expect("an entry");
        zip.write_all(bytes).expect("its bytes");
    };
    entry("data.pkl", pickle);
    entry("byteorder", b"little");
    for (number, bytes) in storages.iter().enumerate() {
        entry(&format!("data/{number}"), bytes);
    }
    entry("version", b"3\n");
    zip.finish().expect("an archive");
}
