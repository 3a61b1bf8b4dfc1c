//! Memory that is used again: fresh pages from the system cost more than much of the work done in them.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// Buffers that nobody uses at the moment.
pub struct BufferPool<T>(Arc<Mutex<Vec<Vec<T>>>>);

/// A slice that goes back to its pool when dropped.
pub struct Buffer<T> {
    values: Vec<T>,
    len: usize,
    pool: BufferPool<T>,
}

impl<T: Copy + Default> BufferPool<T> {
    /// `len` elements, whatever was in them.
    pub fn take(&self, len: usize) -> Buffer<T> {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = free.iter().enumerate().filter(|(_, values)| values.len() >= len);
        let values = match fitting.min_by_key(|(_, values)| values.len()).map(|(i, _)| i) {
            Some(i) => free.swap_remove(i),
            None => {
                // The largest one gives way: all sizes of one batch grow together.
                let largest = free.iter().enumerate().max_by_key(|(_, values)| values.len()).map(|(i, _)| i);
                drop(largest.map(|i| free.swap_remove(i)));
                vec![T::default(); len]
            }
        };
        Buffer { values, len, pool: BufferPool(self.0.clone()) }
    }

    /// `len` zeros.
    pub fn zeros(&self, len: usize) -> Buffer<T> {
        let mut buffer = self.take(len);
        buffer.fill(T::default());
        buffer
    }
}

impl<T: Copy + Default> Buffer<T> {
    /// Makes it `len` long; what was in it is lost where it is too short.
    pub fn resize(&mut self, len: usize) {
        if len > self.values.len() {
            *self = self.pool.take(len);
        }
        self.len = len;
    }
}

impl<T> Clone for BufferPool<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for BufferPool<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Deref for Buffer<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        &self.values[..self.len]
    }
}

impl<T> DerefMut for Buffer<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.values[..self.len]
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        let mut free = self.pool.0.lock().unwrap_or_else(PoisonError::into_inner);
        free.push(std::mem::take(&mut self.values));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again() {
        let pool = BufferPool::default();
        let (large, small) = (pool.take(100), pool.zeros(10));
        let address = small.as_ptr();
        drop((large, small));
        let mut again = pool.take(7);
        assert_eq!((again.as_ptr(), again.len()), (address, 7));
        again.fill(3);
        drop(again);
        assert_eq!(pool.zeros(10)[..], [0; 10]);
        assert_eq!(pool.take(1000).len(), 1000);
        assert!(pool.0.lock().unwrap().len() < 3, "larger buffers replace smaller ones");
    }
}
