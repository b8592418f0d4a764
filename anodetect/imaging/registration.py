"""Bias fields and registration by SimpleITK, on upright grids of cubes in LPS+ millimetres.

SimpleITK sees nothing but such grids, so sheared and left-handed volumes are no matter to it. It
uses all voxels, draws nothing at random, and computes with one thread: the same volume gives the
same bits.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from anodetect.data.geometry import Affine
from anodetect.errors import ConfigError, ImageError
from anodetect.imaging.grids import Grid, cubes, sampled, sampled_mask, smoothed
from anodetect.imaging.templates import INSTALL, NAME, Template, template_file
from anodetect.types import Bools, Floats

FIELD_SIDE = 4.0  # mm: the cubes on which a bias field is looked for
FIELD_STEPS = (50, 50, 50, 50)  # of N4, at most, from coarse to fine
COARSEST = 10.0  # mm: the cubes with which a registration begins
STEPS = 300  # of a registration, at most, at each size of cubes
# mm: the first step of a registration. An affine one that begins with a longer one may leave the
# head at once, and needs no longer one, as it begins where the rigid one has ended.
FIRST_STEP = {"rigid": 2.0, "affine": 0.5}
SHORTEST = 0.01  # mm: the step at which a registration has converged
BINS = 32  # of the histogram of values
HEIGHT = 160.0  # mm below a head's top, of which the middle is where a brain is first looked for
OVERLAP = 0.7  # the least share of the template's brain that must lie in the volume's foreground
STRETCH = 1.6  # the largest factor of an affine registration
LEAST_POSITIVE = 0.99  # the share of the foreground that must be above 0 for N4

Kind = Literal["rigid", "affine"]


@dataclass(frozen=True)
class Registration:
    """Where a template lies in a volume: `to_volume` takes the template's millimetres to the
    volume's. `information` is the mutual information of both at the end, in nats."""

    kind: Kind
    to_volume: Affine
    information: float

    def described(self) -> str:
        """Return the registration in words."""
        turned, moved = _motion(self.to_volume)
        return (
            f"{self.kind} registration to {NAME}: mutual information {self.information:.3f}, "
            f"{turned:.1f}° and {moved:.1f} mm"
        )


def check_installed(*, template: bool) -> None:
    """Raise ConfigError if SimpleITK, or the template, is not installed."""
    if find_spec("SimpleITK") is None:
        raise ConfigError(f"brain.bias and brain.registration need SimpleITK: {INSTALL}")
    if template:
        template_file()


# -- Bias fields -----------------------------------------------------------------------------------


def without_bias(voxels: Floats, grid: Grid, inside: Bools) -> tuple[Floats, str]:
    """Return voxels [I, J, K] divided by the bias field that N4 finds in the foreground, and in
    words what was done; ImageError if values are not above 0."""
    positive = float((voxels[inside] > 0).mean())
    if positive < LEAST_POSITIVE:
        raise ImageError(
            f"N4 takes logarithms, and {1 - positive:.0%} of the foreground are 0 or below; "
            "give such volumes to a model without brain.bias"
        )
    sitk = _simple_itk()
    coarse = cubes(grid, max(FIELD_SIDE, float(grid.spacing.min())), np.eye(3))
    small = sampled(smoothed(voxels, grid.spacing, FIELD_SIDE), grid, coarse)
    image = _image(np.maximum(small, np.float32(1e-6)), coarse)

    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetNumberOfThreads(1)
    n4.SetMaximumNumberOfIterations(FIELD_STEPS)
    try:
        n4.Execute(image, _image(sampled_mask(inside, grid, coarse).astype(np.uint8), coarse))
        logarithms = _array(sitk.Cast(n4.GetLogBiasFieldAsImage(image), sitk.sitkFloat32))
    except RuntimeError:
        raise ImageError("N4 found no bias field; is the foreground large enough?") from None

    field = np.exp(sampled(logarithms, coarse, grid))
    field = (field / field[inside].mean()).astype(np.float32)
    low, high = float(field[inside].min()), float(field[inside].max())
    if not np.isfinite(field).all():
        raise ImageError("N4 found no bias field; is the foreground large enough?")
    return voxels / field, f"N4: field from {low:.2f} to {high:.2f}"


# -- Registration ----------------------------------------------------------------------------------


def register(
    voxels: Floats, grid: Grid, inside: Bools, template: Template, kind: Kind
) -> Registration:
    """Return where the template lies in a volume [I, J, K] whose foreground is `inside`; ImageError
    if the registration does not converge, or ends where no brain is."""
    side = float(template.grid.spacing[0])
    upright = cubes(grid, side, np.eye(3))
    moving = sampled(smoothed(voxels, grid.spacing, side), grid, upright)
    found = sampled_mask(inside, grid, upright)
    if not found.any():
        raise ImageError(f"no foreground in cubes of {side:g} mm; there is nothing to register")
    moving = np.minimum(moving, np.percentile(moving[found], 99.5).astype(np.float32))

    images = _image(template.voxels, template.grid), _image(moving, upright)
    transform = _started(template, found, upright)
    information = _optimised(_method(template, "rigid"), images, transform, "rigid")
    if kind == "affine":
        transform = _as_affine(transform)
        information = _optimised(_method(template, "affine"), images, transform, "affine")

    result = Registration(kind, _matrix(transform), information)
    _check_end(result, template, found, upright)
    return result


def _method(template: Template, kind: Kind) -> Any:
    """Return a registration method that compares the template's brain with a volume."""
    sitk, side = _simple_itk(), float(template.grid.spacing[0])
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricSamplingStrategy(method.NONE)
    method.SetMetricFixedMask(_image(template.inside.astype(np.uint8), template.grid))
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        FIRST_STEP[kind], minStep=SHORTEST, numberOfIterations=STEPS, relaxationFactor=0.6
    )
    method.SetOptimizerScalesFromPhysicalShift()

    factors = [factor for factor in (4, 2) if factor * side <= COARSEST] + [1]
    method.SetShrinkFactorsPerLevel(factors)
    method.SetSmoothingSigmasPerLevel([0.5 * side * factor * (factor > 1) for factor in factors])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    return method


def _started(template: Template, found: Bools, upright: Grid) -> Any:
    """Return a transform that brings the middle of the template's brain to that of the upper part
    of a foreground [I, J, K]."""
    sitk = _simple_itk()
    fixed = template.grid.places(np.argwhere(template.inside).astype(np.float64)).mean(0)
    places = upright.places(np.argwhere(found).astype(np.float64))
    moving = places[places[:, 2] > places[:, 2].max() - HEIGHT].mean(0)

    transform = sitk.Euler3DTransform()
    transform.SetCenter(fixed.tolist())
    transform.SetTranslation((moving - fixed).tolist())
    return transform


def _optimised(method: Any, images: tuple[Any, Any], transform: Any, kind: Kind) -> float:
    """Move a transform to where both images have the most information in common, and return how
    much that is; ImageError if no such place is found."""
    method.SetInitialTransform(transform, inPlace=True)
    try:
        before = -float(method.MetricEvaluate(*images))
        method.Execute(*images)
    except RuntimeError:
        raise ImageError(
            f"the {kind} registration left the volume; does its header say how the head lies?"
        ) from None
    information = -float(method.GetMetricValue())
    if not np.isfinite(information) or information < before:
        raise ImageError(
            f"the {kind} registration did not converge: mutual information {information:.3f}, "
            f"{before:.3f} at its start"
        )
    if method.GetOptimizerIteration() >= STEPS:
        raise ImageError(
            f"the {kind} registration did not converge within {STEPS} steps: mutual information "
            f"{information:.3f}"
        )

    return information


def _check_end(result: Registration, template: Template, found: Bools, upright: Grid) -> None:
    """Raise ImageError if a registration ended where there is no brain."""
    covered = sampled_mask(found, upright, template.grid, result.to_volume)
    share = float(covered[template.inside].mean())
    if share < OVERLAP:
        raise ImageError(
            f"{result.described()}: only {share:.0%} of the template's brain lie in the head; "
            "is it a whole head, and does its header say how it lies?"
        )
    factors = np.linalg.svd(result.to_volume[:3, :3], compute_uv=False)
    if factors.max() > STRETCH or factors.min() < 1 / STRETCH:
        raise ImageError(
            f"{result.described()}: stretched by {factors.min():.2f} to {factors.max():.2f}, which "
            "no head is; take brain.registration=rigid"
        )


def _as_affine(rigid: Any) -> Any:
    """Return an affine transform that does what a rigid one does."""
    affine = _simple_itk().AffineTransform(3)
    affine.SetCenter(rigid.GetCenter())
    affine.SetMatrix(rigid.GetMatrix())
    affine.SetTranslation(rigid.GetTranslation())
    return affine


def _matrix(transform: Any) -> Affine:
    """Return the matrix of a transform of points."""
    matrix = np.array(transform.GetMatrix()).reshape(3, 3)
    centre = np.array(transform.GetCenter())
    found = np.eye(4)
    found[:3, :3] = matrix
    found[:3, 3] = centre + transform.GetTranslation() - matrix @ centre
    return found


def _motion(matrix: Affine) -> tuple[float, float]:
    """Return by how many degrees a matrix turns, and by how many mm it moves the origin."""
    u, _, v = np.linalg.svd(matrix[:3, :3])
    cosine = (np.trace(u @ v) - 1) / 2
    turned = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    return turned, float(np.linalg.norm(matrix[:3, 3]))


# -- SimpleITK -------------------------------------------------------------------------------------


def _simple_itk() -> Any:
    import SimpleITK as sitk  # noqa: N813, its usual name

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # the order of sums must not vary
    return sitk


def version() -> str:
    """Return SimpleITK's version."""
    return str(_simple_itk().Version_VersionString())


def _image(values: NDArray[Any], grid: Grid) -> Any:
    """Return values [I, J, K] of an upright grid as SimpleITK's image."""
    image = _simple_itk().GetImageFromArray(np.ascontiguousarray(values.transpose(2, 1, 0)))
    directions = grid.affine[:3, :3] / grid.spacing
    image.SetOrigin(grid.affine[:3, 3].tolist())
    image.SetSpacing(grid.spacing.tolist())
    image.SetDirection(directions.ravel().tolist())
    return image


def _array(image: Any) -> Floats:
    """Return the values [I, J, K] of SimpleITK's image."""
    return np.asarray(_simple_itk().GetArrayFromImage(image).transpose(2, 1, 0))
