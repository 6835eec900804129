"""Names of files that people have on their disks, as bytes."""

ODD_NAMES = {
    "plain": b"birds/a b.wav",
    "commas": b"a,b;c\td.wav",
    "quotes": b'say "who"\'s.wav',
    "newlines": b"two\nlines.wav",
    "carriage returns": b"two\rlines.wav",
    "non-Latin": "鳥/ñandú 🐦.ogg".encode(),
    "not UTF-8": b"caf\xe9/\xff\xfe.wav",
}
