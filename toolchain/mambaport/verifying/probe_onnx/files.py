"""An ONNX file of one node, written without the package onnx. The fields' numbers are those of onnx.proto."""

FLOAT, FLOAT_TYPE, INT_TYPE = 1, 1, 2
OPSET, IR_VERSION = 18, 9


def one_node(name, domain, inputs, outputs, attributes):
    """The bytes of a model whose inputs and outputs, float32, are those of its node.

    inputs: names in the operator's order, "" for an input that is absent; attributes: int or float values
    """
    node = b"".join(field(1, item) for item in inputs) + b"".join(field(2, item) for item in outputs)
    node += field(4, name) + b"".join(field(5, attribute(*item)) for item in attributes.items())
    node += field(7, domain)
    graph = field(1, node) + field(2, "one node")
    graph += b"".join(field(11, value(item)) for item in inputs if item)
    graph += b"".join(field(12, value(item)) for item in outputs)
    imports = [field(8, field(1, key) + field(2, number)) for key, number in (("", OPSET), (domain, 1))]
    return field(1, IR_VERSION) + field(7, graph) + b"".join(imports)


def value(name):
    return field(1, name) + field(2, field(1, field(1, FLOAT)))


def attribute(name, number):
    if isinstance(number, float):
        import struct

        return field(1, name) + bytes([2 << 3 | 5]) + struct.pack("<f", number) + field(20, FLOAT_TYPE)
    return field(1, name) + field(3, number) + field(20, INT_TYPE)


def field(number, content):
    """A field of a protocol buffer: an integer, or a text or message with its length before it."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    data = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(number):
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)
