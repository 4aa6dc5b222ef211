// Reads the metadata of an ONNX file, which onnxruntime-web does not give out: field 14 of the message
// (protobuf), a key (field 1) and a value (field 2) each.

function varint(bytes, at) {
  let [value, factor] = [0, 1];
  for (;;) {
    const byte = bytes[at++];
    value += (byte & 0x7f) * factor;
    if (byte < 0x80) return [value, at];
    factor *= 0x80;
  }
}

// Yields the fields of a message that are texts or messages.
function* fields(bytes) {
  for (let at = 0; at < bytes.length; ) {
    let key, length;
    [key, at] = varint(bytes, at);
    const wire = key & 7;
    if (wire === 0) {
      [, at] = varint(bytes, at);
    } else if (wire === 2) {
      [length, at] = varint(bytes, at);
      yield [Math.floor(key / 8), bytes.subarray(at, at + length)];
      at += length;
    } else {
      at += wire === 1 ? 8 : 4;
    }
  }
}

export function metadata(bytes) {
  const text = (part) => new TextDecoder().decode(part ?? new Uint8Array());
  const entries = [...fields(bytes)].filter(([number]) => number === 14);
  return Object.fromEntries(
    entries.map(([, entry]) => {
      const parts = Object.fromEntries(fields(entry));
      return [text(parts[1]), text(parts[2])];
    }),
  );
}
