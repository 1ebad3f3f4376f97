"""From a patient to a picture: exact chords, Beer-Lambert attenuation, scatter, noise, film.

An elliptic tube seen from any side is an ellipse again, so the path of a ray through cortex,
spongiosa and soft tissue is known in closed form. What the film shows is percentile-windowed
-log of the counts: bone is bright.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from fracture_utils.data.anatomy import KINDS, Fracture, Patient, Point, Tube

# Linear attenuation, 1/mm, near 55 keV (NIST XCOM). Bone counts what it adds to muscle.
MUSCLE, FAT, PLASTER, LEAD = 0.022, 0.0195, 0.03, 3.0
CORTEX, SPONGIOSA, MARROW = 0.066, 0.017, -0.001
TURNS = {"frontal": 0.0, "lateral": 90.0, "oblique": 45.0}


@dataclass(frozen=True)
class View:
    """Geometry of one exposure: angles in radians, centre in mm, pitch in mm per pixel."""

    turn: float
    tilt: float
    centre: np.ndarray
    pitch: float
    size: int

    def project(self, point: Point) -> np.ndarray:
        """The point in mm across and along the limb, as the rays see it."""
        return np.array([self.across(point[0], point[2]), point[1]])

    def across(self, x: float, z: float) -> float:
        return x * math.cos(self.turn) + z * math.sin(self.turn)

    def pixel(self, place: np.ndarray) -> np.ndarray:
        """Column and row of a place in mm."""
        cos, sin = math.cos(self.tilt), math.sin(self.tilt)
        dx, dy = (place - self.centre) / self.pitch
        return np.array([cos * dx - sin * dy, sin * dx + cos * dy]) + (self.size - 1) / 2

    def coordinates(self, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        """Millimetres across and along the limb of these pixels."""
        steps = (np.arange(self.size, dtype=np.float32) - (self.size - 1) / 2) * self.pitch
        cos, sin = np.float32(math.cos(self.tilt)), np.float32(math.sin(self.tilt))
        column, row = steps[None, columns], steps[rows, None]
        centre = self.centre.astype(np.float32)
        return cos * column + sin * row + centre[0], cos * row - sin * column + centre[1]


def draw_view(patient: Patient, view: int, size: int, random: np.random.Generator) -> View:
    """The geometry of this view: the bone of interest is always in the picture."""
    turn = math.radians(TURNS[patient.limb.views[view]] + random.normal(0, 5))
    tilt = random.normal(0, 0.15)
    field = patient.limb.field * random.uniform(0.5, 0.85)
    geometry = View(turn, tilt, np.zeros(2), field / size, size)
    bone = patient.limb.bones[patient.bone]
    start, end = geometry.project(bone.start), geometry.project(bone.end)
    centre = start + (end - start) * patient.site + field * random.uniform(-0.18, 0.18, 2)
    return replace(geometry, centre=centre)


def _window(tube: Tube, view: View) -> tuple[slice, slice]:
    """The rows and columns that the tube can reach."""
    ends = np.stack([view.pixel(view.project(place)) for place in (tube.start, tube.end)])
    reach = (
        tube.radius * max(*tube.flares, 1) * max(tube.depth, 1) + 2 * max(map(abs, tube.bow)) + 6
    )
    low = np.clip(ends.min(0) - reach / view.pitch, 0, view.size).astype(int)
    high = np.clip(ends.max(0) + reach / view.pitch + 1, 0, view.size).astype(int)
    return slice(low[1], high[1]), slice(low[0], high[0])


@dataclass(frozen=True)
class Shadow:
    """A tube as one view sees it: coordinates in mm along and across it for each pixel."""

    tube: Tube
    view: View
    along: np.ndarray
    across: np.ndarray
    slant: float

    @classmethod
    def cast(cls, tube: Tube, view: View, window: tuple[slice, slice]) -> "Shadow":
        start, end = view.project(tube.start), view.project(tube.end)
        seen = max(float(np.linalg.norm(end - start)), 1e-3)
        axis = ((end - start) / seen).astype(np.float32)
        x, y = view.coordinates(*window)
        x, y = x - np.float32(start[0]), y - np.float32(start[1])
        slant = max(seen / tube.length, 0.5)
        along = (x * axis[0] + y * axis[1]) / np.float32(slant)
        bow = np.float32(view.across(*tube.bow))
        across = x * axis[1] - y * axis[0]
        across -= bow * np.sin(np.float32(math.pi / tube.length) * along)
        return cls(tube, view, along, across, slant)

    def semi_axes(self, across: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Half the width, half the depth (along the ray) and the nearness to the ends, 0 to 1."""
        tube, length = self.tube, self.tube.length
        reach = tube.reach * length
        first = np.exp(-np.square(self.along / reach))
        last = np.exp(-np.square((length - self.along) / reach))
        flare = 1 + (tube.flares[0] - 1) * first + (tube.flares[1] - 1) * last
        rest = length - self.along
        if tube.notch:
            rest = rest - tube.notch * np.exp(-np.square(across / (0.8 * tube.radius)))
        dome = np.clip(np.minimum(self.along, rest) / tube.cap, 0, 1)
        flare = flare * np.sqrt(dome * (2 - dome))
        x, z = tube.radius, tube.radius * tube.depth
        width = math.hypot(x * math.cos(self.view.turn), z * math.sin(self.view.turn))
        half = np.float32(width) * flare
        return half, half * np.float32(x * z / width**2 / self.slant), np.maximum(first, last)


def _chord(half: np.ndarray, depth: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Path of a ray through an ellipse, mm."""
    return 2 * depth * np.sqrt(np.maximum(1 - np.square(across / np.maximum(half, 1e-3)), 0))


def _bone(shadow: Shadow, across: np.ndarray, texture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a bone adds to the line integral, and the path through it in mm."""
    tube, along = shadow.tube, shadow.along
    half, depth, near = shadow.semi_axes(across)
    wall = tube.cortex * (1 - 0.72 * near)
    outer = _chord(half, depth, across)
    inner = _chord(np.maximum(half - wall, 0), np.maximum(depth - wall, 0), across)
    sponge = MARROW + (SPONGIOSA - MARROW) * np.sqrt(near)
    bone = CORTEX * (outer - inner) + sponge * inner * (1 + 0.3 * texture)
    for physis in tube.physes:
        inward = 1 if physis < tube.length / 2 else -1
        rise = inward * (along - physis - 0.8 * np.sin(across * 0.45 + physis))
        plate = 0.6 * np.exp(-np.square(rise / 0.8)) - 0.25 * np.exp(-np.square((rise - 1.8) / 0.8))
        bone = bone * (1 - plate)
    if tube.canal:
        run = (along - abs(tube.canal)) / (2.2 * tube.radius)
        wander = across - math.copysign(1, tube.canal) * half * (0.95 - 0.7 * run)
        inside = (run > 0) & (run < 1)
        channel = np.exp(-np.square(wander / (0.06 * tube.radius))) * inside
        bone = bone * (1 - 0.22 * channel)
    return bone, outer


def _beyond(
    shadow: Shadow, path: np.ndarray, fracture: Fracture, lead: np.ndarray, turned: int
) -> np.ndarray:
    """Share of each ray, 0 to 1, beyond the fracture's surface.

    The surface is moved by `lead` mm and its slope is `turned` (1 or -1). Front and back of
    the bone are cut at their own height: lines that part where the surface is oblique to the ray.
    """
    azimuth, radius = fracture.azimuth - shadow.view.turn, shadow.tube.radius
    rise, deep = fracture.slope * math.cos(azimuth), fracture.slope * math.sin(azimuth)
    helical = KINDS[fracture.kind].helical
    wave = np.arcsin(np.sin(shadow.across * (3 / radius) + fracture.phase))
    wave = fracture.jag * (wave + 0.5 * np.sin(shadow.across * (9 / radius)))
    smear = 0.4 * shadow.view.pitch + 0.05 + (0 if helical else 0.12 * abs(deep) * path)
    share = np.zeros_like(path)
    for face in (-1, 1):
        slope = fracture.slope * face if helical else rise
        height = 0 if helical else 0.4 * face * deep * path
        level = fracture.site + turned * slope * shadow.across + height + wave * (1 + 0.3 * face)
        share += 0.5 * np.clip((shadow.along - level - lead) / (2 * smear) + 0.5, 0, 1)
    return share


def _broken(
    shadow: Shadow, path: np.ndarray, fracture: Fracture, texture: np.ndarray
) -> np.ndarray:
    """The bone in fragments: each has its own course near the fracture and returns to the axis."""
    radius = shadow.tube.radius
    near = np.maximum(1 - np.abs(shadow.along - fracture.site) / (3 * radius), 0)
    seen = math.cos(fracture.shift_azimuth - shadow.view.turn)
    sideways, bend = fracture.shift * (seen + math.copysign(0.25, seen)), fracture.bend * seen
    gap, wedge = _gap(shadow, fracture), 0.9 * radius * KINDS[fracture.kind].wedge
    leads = [(-gap - wedge) / 2, (gap - wedge) / 2, (wedge - gap) / 2, (wedge + gap) / 2]
    surfaces = [(leads[0], 1), (leads[1], 1), (leads[2], -1), (leads[3], -1)]
    beyond = [_beyond(shadow, path, fracture, *s) for s in (surfaces if wedge else surfaces[:2])]
    fragments = [(1 - beyond[0], -sideways / 2), (beyond[-1], sideways / 2)]
    if wedge:
        fragments.append((beyond[1] * (1 - beyond[2]), 1.2 * sideways))
    bone = np.zeros_like(path)
    for share, offset in fragments:
        bone += share * _bone(shadow, shadow.across - (offset + bend) * near, texture)[0]
    return bone


def _gap(shadow: Shadow, fracture: Fracture) -> np.ndarray:
    """Width of the gap in mm along the bone; it closes where the break ends."""
    side, extent = math.copysign(1, fracture.extent), abs(fracture.extent)
    closing = 2 * extent - 1 - side * shadow.across / shadow.tube.radius
    return fracture.gap * (np.clip(closing + 0.5, 0, 1) if extent < 1 else np.ones_like(closing))


def _skeleton(patient: Patient, view: View, texture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Line integrals of all bones, and what the fracture changes in them, both (size, size)."""
    integrals, change = np.zeros((2, view.size, view.size), np.float32)
    for number, tube in enumerate(patient.limb.bones):
        window = _window(tube, view)
        if not texture[window].size:
            continue
        shadow = Shadow.cast(tube, view, window)
        bone, path = _bone(shadow, shadow.across, texture[window])
        below = integrals[window]
        integrals[window] = np.maximum(below, bone) if tube.fused else below + bone
        if patient.fracture and number == patient.bone:
            change[window] = _broken(shadow, path, patient.fracture, texture[window]) - bone
    return integrals + change, change


def _flesh(patient: Patient, view: View, shell: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Thickness in mm of all soft tissue (with a shell around it), and of the muscle in it."""
    whole, muscle = np.zeros((2, view.size, view.size), np.float32)
    for tube in patient.limb.flesh:
        window = _window(tube, view)
        if not whole[window].size:
            continue
        shadow = Shadow.cast(tube, view, window)
        half, depth, _ = shadow.semi_axes(shadow.across)
        # A sum of fourth powers joins the masses without a crease.
        chord = _chord(half + shell, depth + shell, shadow.across)
        core = _chord(0.87 * half, 0.87 * depth, shadow.across)
        whole[window] += np.square(np.square(chord))
        muscle[window] += np.square(np.square(core))
    return np.sqrt(np.sqrt(whole)), np.sqrt(np.sqrt(muscle))


def _noise(size: int, width: float, random: np.random.Generator) -> np.ndarray:
    """Smooth noise of unit variance, (size, size); width in pixels."""
    noise = gaussian_filter(random.standard_normal((size, size), np.float32), width, mode="wrap")
    return noise / noise.std()


def _strands(view: View, random: np.random.Generator) -> np.ndarray:
    """A net of bright strands of spongiosa, about unit variance: where smooth noise is near 0."""
    noise = _noise(view.size, max(0.3 / view.pitch, 0.6), random)
    return 1.6 * (0.7 - np.minimum(np.abs(noise), 1.4))


def _folds(flesh: np.ndarray, view: View, random: np.random.Generator) -> np.ndarray:
    """Thickness in mm that folds of skin and clothes add: soft steps across the limb."""
    x, y = view.coordinates(slice(None), slice(None))
    share = np.zeros_like(flesh)
    for _ in range(random.choice([0, 0, 1, 1, 2, 3])):
        slope, offset = random.normal(0, 0.5), random.uniform(-0.4, 0.4) * view.pitch * view.size
        rise = slope * (x - float(view.centre[0])) + 3 * np.sin(x / 14 + offset)
        step = (y - float(view.centre[1]) - offset - rise) / random.uniform(0.4, 2)
        share += random.uniform(0.02, 0.09) * np.clip(0.5 + step, 0, 1)
    return flesh * share


def _marker(side: str, view: View, random: np.random.Generator) -> np.ndarray:
    """The lead letter near an edge of the picture, as line integrals."""
    picture = Image.new("L", (view.size, view.size))
    height = random.uniform(0.05, 0.085) * view.size
    edges = random.uniform(0.07, 0.17), random.uniform(0.8, 0.88)
    place = tuple(random.choice(edges, 2) * view.size)
    draw = ImageDraw.Draw(picture)
    draw.text(place, side, fill=255, font=ImageFont.load_default(height))
    present = float(random.random() < 0.7)
    return np.asarray(picture, np.float32) * (present * LEAD / 255)


def line_integrals(
    patient: Patient, view: View, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Attenuation summed along each ray, and the part of it that is the fracture's doing."""
    lumps = _noise(view.size, 2.5 / view.pitch, random)
    bones, change = _skeleton(patient, view, _strands(view, random) + 0.4 * lumps)
    flesh, muscle = _flesh(patient, view)
    integrals = bones + FAT * flesh + (MUSCLE - FAT) * muscle
    integrals += MUSCLE * (_folds(flesh, view, random) + 0.012 * flesh * lumps)
    if patient.cast:
        shell = _flesh(patient, view, shell=5.0)[0] - flesh
        integrals += PLASTER * shell * (1 + 0.12 * _noise(view.size, 0.8 / view.pitch, random))
    return integrals + _marker(patient.side, view, random), change


def _field(size: int, random: np.random.Generator) -> np.ndarray:
    """The beam between the collimator's jaws: 1 inside, 0 outside, a pixel of penumbra."""
    steps = np.linspace(-1, 1, size, dtype=np.float32)
    tilt = random.normal(0, 0.015)
    x, y = steps[None] + tilt * steps[:, None], steps[:, None] - tilt * steps[None]
    margins = random.choice([-0.2, 0.06, 0.12, 0.2], 4) * random.uniform(0.5, 1.2, 4)
    jaws = (1 - margins).tolist()
    inside = np.minimum(np.minimum(jaws[0] - x, jaws[1] + x), np.minimum(jaws[2] - y, jaws[3] + y))
    return np.clip(inside * size / 3 + 0.5, 0, 1)


def develop(integrals: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Expose a detector behind the line integrals and show it as a film: uint8, bone bright."""
    size = len(integrals)
    field = _field(size, random)
    heel = 1 + random.uniform(-0.12, 0.12) * np.linspace(-1, 1, size, dtype=np.float32)[:, None]
    primary = np.exp(-integrals) * field * heel
    small = Image.fromarray(primary).resize((32, 32), Image.Resampling.BOX)
    spread = Image.fromarray(gaussian_filter(np.asarray(small), random.uniform(2, 4)))
    scatter = np.asarray(spread.resize((size, size), Image.Resampling.BICUBIC))
    share = random.uniform(0.1, 0.3)
    photons = 10 ** random.uniform(3.3, 4.2)
    light = gaussian_filter((1 - share) * primary + share * scatter, random.uniform(0.5, 0.9))
    light = np.maximum(light, 1e-4) * photons
    # Quanta arrive by Poisson's law; behind a limb there are enough for its normal limit.
    counts = light + np.sqrt(light) * random.standard_normal(light.shape, np.float32)
    density = np.log(photons / np.maximum(counts, 0.5))
    return _window_grey(density, field > 0.5, random)


def _window_grey(
    density: np.ndarray, inside: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """Percentile window inside the field; outside it the film is shuttered black or unexposed."""
    shares = random.uniform(0.2, 2), random.uniform(99.3, 99.95)
    low, high = np.percentile(density[::2, ::2][inside[::2, ::2]], shares).tolist()
    black, gamma = random.uniform(0, 0.12), random.uniform(0.8, 1.25)
    grey = np.clip((density - low) / (high - low), 0, 1) ** gamma
    grey = black + (1 - black) * grey
    if random.random() < 0.7:
        grey = np.where(inside, grey, random.uniform(0, 0.03))
    return (255 * grey + 0.5).astype(np.uint8)


def box_around(change: np.ndarray) -> tuple[int, int, int, int]:
    """xmin, ymin, xmax, ymax in pixels around nearly all energy of the fracture's change."""
    size, box = len(change), []
    for axis in (0, 1):
        energy = np.cumsum(np.square(change, dtype=np.float64).sum(axis))
        low, high = np.searchsorted(energy, energy[-1] * np.array([0.01, 0.99]))
        middle, half = (low + high + 1) / 2, max((high - low) / 2 + 0.01 * size, 0.03 * size)
        box.append((max(math.floor(middle - half), 0), min(math.ceil(middle + half), size)))
    return box[0][0], box[1][0], box[0][1], box[1][1]


def render(patient: Patient, view: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The picture (uint8) and the change that its fracture makes in the line integrals."""
    random = np.random.default_rng([seed, 2, patient.index, view])
    geometry = draw_view(patient, view, size, random)
    integrals, change = line_integrals(patient, geometry, random)
    return develop(integrals, random), change
