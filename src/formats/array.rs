//! An array as files hold it: dtype, shape and bytes.

use half::{bf16, f16};

use crate::dtype::{DType, Element};
use crate::error::{Error, Result};

/// A dense array: row-major, little-endian, in logical order, without padding.
///
/// [`Array::new`] checks that the three fields agree; whoever changes one by
/// hand keeps them so. Readers and writers check again.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    pub dtype: DType,
    pub shape: Vec<usize>,
    /// `dtype.size()` bytes per element; a bool is one byte, 0 or 1.
    pub data: Vec<u8>,
}

/// The number of bytes that `shape` takes, or `None` where it overflows.
///
/// Dimensions of zero do not excuse the others: `[0, usize::MAX, 2]` overflows,
/// so that no later product of the same dimensions can.
pub(crate) fn byte_count(dtype: DType, shape: &[usize]) -> Option<usize> {
    let full = shape
        .iter()
        .filter(|&&d| d != 0)
        .try_fold(dtype.size(), |n, &d| n.checked_mul(d))?;
    Some(if shape.contains(&0) { 0 } else { full })
}

impl Array {
    /// # Errors
    /// The shape overflows, or needs another number of bytes than `data` has,
    /// or a bool is neither 0 nor 1.
    pub fn new(dtype: DType, shape: impl Into<Vec<usize>>, data: Vec<u8>) -> Result<Self> {
        Self::checked(dtype, shape.into(), data).map_err(|problem| Error::op("Array::new", problem))
    }

    /// As [`Array::new`], for readers, which put the file's name to the problem.
    pub(crate) fn checked(dtype: DType, shape: Vec<usize>, data: Vec<u8>) -> Result<Self, String> {
        let array = Self { dtype, shape, data };
        array.check()?;
        Ok(array)
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        let Self { dtype, shape, data } = self;
        let bytes =
            byte_count(*dtype, shape).ok_or_else(|| format!("the shape {shape:?} overflows"))?;
        if bytes != data.len() {
            return Err(format!(
                "shape {shape:?} of {dtype} takes {bytes} bytes, but there are {}",
                data.len()
            ));
        }
        if *dtype == DType::Bool
            && let Some(byte) = data.iter().find(|&&b| b > 1)
        {
            return Err(format!("a bool is stored as {byte}; it must be 0 or 1"));
        }
        Ok(())
    }

    /// From elements in row-major order; the dtype is that of `T`.
    ///
    /// # Errors
    /// `values` is not as long as `shape` says.
    pub fn from_slice<T: Element>(shape: &[usize], values: &[T]) -> Result<Self> {
        Self::new(T::DTYPE, shape, bytemuck::cast_slice(values).to_vec())
    }

    /// As [`Array::from_slice`].
    pub fn from_f32(shape: &[usize], values: &[f32]) -> Result<Self> {
        Self::from_slice(shape, values)
    }

    /// As [`Array::from_slice`].
    pub fn from_f64(shape: &[usize], values: &[f64]) -> Result<Self> {
        Self::from_slice(shape, values)
    }

    /// As [`Array::from_slice`].
    pub fn from_i64(shape: &[usize], values: &[i64]) -> Result<Self> {
        Self::from_slice(shape, values)
    }

    /// As [`Array::from_slice`].
    pub fn from_bool(shape: &[usize], values: &[bool]) -> Result<Self> {
        Self::new(
            DType::Bool,
            shape,
            values.iter().map(|&b| u8::from(b)).collect(),
        )
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.data.len() / self.dtype.size()
    }

    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The elements in row-major order, of exactly the stored type (bools are `u8`).
    ///
    /// # Errors
    /// The array is of another dtype.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        if self.dtype != T::DTYPE && !(self.dtype == DType::Bool && T::DTYPE == DType::U8) {
            return Err(Error::dtype(
                "Array::to_vec",
                &[self.dtype, T::DTYPE],
                "the array's own dtype",
            ));
        }
        Ok(self.elements().collect())
    }

    /// The elements of a float array, rounded to f32 where they are f64.
    ///
    /// # Errors
    /// The array is of an integer or bool dtype: [`Array::to_f64`] takes every one.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        match self.dtype {
            DType::F32 => Ok(self.elements().collect()),
            DType::F64 => Ok(self.elements::<f64>().map(|v| v as f32).collect()),
            DType::F16 => Ok(self.elements::<f16>().map(f16::to_f32).collect()),
            DType::BF16 => Ok(self.elements::<bf16>().map(bf16::to_f32).collect()),
            other => Err(Error::dtype(
                "Array::to_f32",
                &[other],
                "f32, f64, f16 or bf16",
            )),
        }
    }

    /// The elements as f64: exact but for integers beyond 2^53.
    pub fn to_f64(&self) -> Vec<f64> {
        self.iter_f64().collect()
    }

    /// The elements of an integer or bool array.
    ///
    /// # Errors
    /// The array is of a float dtype.
    pub fn to_i64(&self) -> Result<Vec<i64>> {
        match self.dtype {
            DType::I64 => Ok(self.elements().collect()),
            DType::I32 => Ok(self.elements::<i32>().map(i64::from).collect()),
            DType::U8 | DType::Bool => Ok(self.data.iter().map(|&v| i64::from(v)).collect()),
            other => Err(Error::dtype(
                "Array::to_i64",
                &[other],
                "i64, i32, u8 or bool",
            )),
        }
    }

    /// As [`Array::to_f64`], one at a time.
    pub fn iter_f64(&self) -> Box<dyn Iterator<Item = f64> + '_> {
        match self.dtype {
            DType::F32 => Box::new(self.elements::<f32>().map(Element::to_f64)),
            DType::F64 => Box::new(self.elements::<f64>()),
            DType::F16 => Box::new(self.elements::<f16>().map(f16::to_f64)),
            DType::BF16 => Box::new(self.elements::<bf16>().map(bf16::to_f64)),
            DType::I32 => Box::new(self.elements::<i32>().map(f64::from)),
            DType::I64 => Box::new(self.elements::<i64>().map(Element::to_f64)),
            DType::U8 | DType::Bool => Box::new(self.data.iter().map(|&v| f64::from(v))),
        }
    }

    /// `T` is as wide as the dtype; the bytes may lie at any alignment.
    fn elements<T: Element>(&self) -> impl Iterator<Item = T> + '_ {
        self.data
            .chunks_exact(size_of::<T>())
            .map(bytemuck::pod_read_unaligned)
    }
}
