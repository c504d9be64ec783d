"""Writes Siemens raw data field by field."""

import struct

import numpy as np

FLAGS = {"end": 0, "feedback": 1, "phasecor": 21, "ref": 22, "both": 23, "reflect": 24, "noise": 25}
PROTOCOL = {
    "sSliceArray.asSlice[0].dThickness": 4.0,
    "sSliceArray.asSlice[0].dReadoutFOV": 80.0,
    "sSliceArray.asSlice[0].dPhaseFOV": 60.0,
    "sKSpace.lBaseResolution": 4,
    "sKSpace.ucTrajectory": "0x1",
    "sPat.ucRefScanMode": "0x2",
}


def readout(data, lin=0, *flags, slice=0, par=0, center=None, cut=(0, 0), centers=(3, 0), **more):
    """One acquisition as VB systems store it: a header before the samples of every channel."""
    rows = []
    samples = data.shape[1]
    counters = [lin, 0, slice, par, more.get("eco", 0), 0, more.get("rep", 0), *[0] * 7]
    mask = sum(1 << FLAGS[flag] for flag in flags)
    for channel, row in enumerate(data):
        rows.append(
            struct.pack(
                "<IiIIIQHH14H2HHHfIHH4H4H3f4fHH",
                *(128 + 8 * samples, 1, 1, more.get("time", 1000 * lin), 0, mask, samples, len(data)),
                *counters,
                *cut,
                samples // 2 if center is None else center,
                *(0, 0.0, 0),
                *centers,
                *[0] * 8,
                *more.get("position", (0.0, 0.0, 0.0)),
                *(1.0, 0.0, 0.0, 0.0),
                *(channel, 0),
            )
            + row.astype(np.complex64).tobytes()
        )
    return b"".join(rows)


def write_twix(path, readouts, end=True, **changes):
    """A VB file of one scan with a header of two parts."""
    protocol = "".join(f"{k} = {v}\n" for k, v in (PROTOCOL | changes).items())
    parts = {
        "Config": "<XProtocol> {}",
        "MeasYaps": f"### ASCCONV BEGIN ###\n{protocol}### ASCCONV END ###",
    }
    text = b""
    for name, content in parts.items():
        text += name.encode() + b"\0" + struct.pack("<I", len(content)) + content.encode()
    text += b" " * (12000 - len(text))
    stop = [readout(np.zeros((1, 16), np.complex64), 0, "end")] if end else []
    path.write_bytes(struct.pack("<II", 8 + len(text), len(parts)) + text + b"".join([*readouts, *stop]))
    return path
