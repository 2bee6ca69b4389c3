//! Strided bytes made row-major: PyTorch's views and NumPy's Fortran order.

/// Where the elements of an array lie in its storage, in elements.
pub(crate) struct View<'a> {
    pub shape: &'a [usize],
    pub strides: &'a [usize],
    pub offset: usize,
}

impl View<'_> {
    /// Whether the elements lie one after the other in row-major order.
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1usize;
        for (&size, &stride) in self.shape.iter().zip(self.strides).rev() {
            if size != 1 && stride != expected {
                return false;
            }
            expected = expected.saturating_mul(size);
        }
        true
    }

    /// One past the largest element index, 0 for an empty view; `None` on overflow.
    pub fn extent(&self) -> Option<usize> {
        if self.shape.contains(&0) {
            return Some(0);
        }
        let last = self
            .shape
            .iter()
            .zip(self.strides)
            .try_fold(self.offset, |at, (&size, &stride)| {
                at.checked_add((size - 1).checked_mul(stride)?)
            })?;
        last.checked_add(1)
    }

    /// Copies the elements, `size` bytes each, in row-major order.
    ///
    /// `None` where shape and strides differ in length, or the view reaches
    /// beyond `storage`. The caller has bounded the number of elements.
    pub fn gather(&self, storage: &[u8], size: usize) -> Option<Vec<u8>> {
        let extent = self.extent()?;
        if self.shape.len() != self.strides.len() || extent.checked_mul(size)? > storage.len() {
            return None;
        }
        let count = self
            .shape
            .iter()
            .try_fold(1usize, |n, &d| n.checked_mul(d))?;
        if count == 0 {
            return Some(Vec::new());
        }
        if self.is_contiguous() {
            let start = self.offset * size;
            return storage.get(start..start + count * size).map(<[u8]>::to_vec);
        }

        let mut data = Vec::with_capacity(count.checked_mul(size)?);
        let mut index = vec![0; self.shape.len()];
        let mut at = self.offset;
        loop {
            data.extend_from_slice(storage.get(at * size..(at + 1) * size)?);
            // Count up like an odometer, last axis fastest.
            let mut axis = self.shape.len();
            loop {
                if axis == 0 {
                    return Some(data);
                }
                axis -= 1;
                // The stride of an axis of one element is never taken: it may be anything.
                if index[axis] + 1 < self.shape[axis] {
                    index[axis] += 1;
                    at += self.strides[axis];
                    break;
                }
                at -= self.strides[axis] * index[axis];
                index[axis] = 0;
            }
        }
    }
}

/// Reverses the bytes of every element of `size` bytes.
pub(crate) fn swap_bytes(data: &mut [u8], size: usize) {
    for element in data.chunks_exact_mut(size) {
        element.reverse();
    }
}
