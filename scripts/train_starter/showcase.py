"""Cursors to look at."""

SHOWCASE = [
    ("an import already used", "python", '''
import os
import sys


def find_files(root, suffix):
    """Yield the paths of all files below root that end with suffix."""
    for name in os.listdir(root):
        path = os.path.▮
        if os.path.isdir(path):
            yield from find_files(path, suffix)
        elif name.endswith(suffix):
            yield path
'''),
    ("a loop over an argument", "python", '''
def total(prices, tax=0.2):
    """Return the sum of all prices with tax."""
    result = 0
    for price in ▮
        result += price * (1 + tax)
    return result


def average(prices):
    return total(prices) / len(prices)
'''),
    ("a method defined above", "python", """
class Stack:
    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)

    def pop(self):
        if not self.items:
            raise IndexError("pop from empty stack")
        return self.items.▮

    def __len__(self):
        return len(self.items)
"""),
    ("a field assigned above", "python", """
class Stack:
    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)

    def pop(self):
        if not self.items:
            raise IndexError("pop from empty stack")
        return self.items.pop()

    def __len__(self):
        return len(▮
"""),
    ("a method called before", "python", """
import unittest


class TestStack(unittest.TestCase):
    def setUp(self):
        self.stack = Stack()

    def test_push(self):
        self.stack.push(1)
        self.assertEqual(len(self.stack), 1)

    def test_pop(self):
        self.stack.push(1)
        self.stack.push(2)
        self.▮


if __name__ == "__main__":
    unittest.main()
"""),
    ("the closing idiom", "python", """
import unittest


class TestStack(unittest.TestCase):
    def test_push(self):
        self.assertEqual(1, 1)


if __name__ == ▮
"""),
    ("a parameter", "python", """
class Point:
    def __init__(self, x, y):
        self.x = x
        self.y = ▮

    def __repr__(self):
        return f"Point({self.x}, {self.y})"

    def __eq__(self, other):
        return self.x == other.x and self.y == other.y
"""),
    ("a type already imported", "rust", """
use std::collections::HashMap;

/// Counts how often every word occurs.
pub fn count(words: &[String]) -> HashMap<String, usize> {
    let mut counts = HashMap::▮
    for word in words {
        *counts.entry(word.clone()).or_insert(0) += 1;
    }
    counts
}
"""),
    ("a constructor called before", "rust", """
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn push_then_pop() {
        let mut stack = Stack::new();
        stack.push(1);
        assert_eq!(stack.pop(), Some(1));
    }

    #[test]
    fn pop_empty() {
        let mut stack = Stack::▮
        assert_eq!(stack.pop(), None);
    }
}
"""),
    ("a trait's signature", "rust", """
use std::fmt;

pub struct Point {
    x: f64,
    y: f64,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::▮
        write!(f, "({}, {})", self.x, self.y)
    }
}
"""),
    ("a sum in a loop", "rust", """
fn main() {
    let mut total = 0;
    for i in 0..10 {
        total += ▮
    }
    println!("{}", total);
}
"""),
    ("the element of a loop", "javascript", """
const values = [1, 2, 3];
let total = 0;
for (let i = 0; i < values.length; i++) {
  total += values▮
}
console.log(total);
"""),
    ("closing a loop header", "javascript", """
function max(values) {
  let best = values[0];
  for (let i = 1; i < values.▮
    if (values[i] > best) {
      best = values[i];
    }
  }
  return best;
}

module.exports = { max };
"""),
]
