class Stack:
    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)

    def pop(self):
        return self.items.pop()

    def is_empty(self):
        return len(self.items) == 0


def reverse(values):
    stack = Stack()
    for value in values:
        stack.push(value)
    result = []
    while not stack.is_empty():
        result.append(stack.pop())
    return
