from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from wm_jax.vision import layers
from wm_jax.vision.layers import convolution, transposed_convolution

pytestmark = pytest.mark.usefixtures("quick_compilation")

LAYOUT = ("NHWC", "HWIO", "NHWC")
PLAIN_CONVOLUTION = partial(lax.conv_general_dilated, window_strides=(2, 2), padding="VALID", dimension_numbers=LAYOUT)
PLAIN_TRANSPOSED = partial(
    lax.conv_transpose, strides=(2, 2), padding="VALID", dimension_numbers=LAYOUT, transpose_kernel=True
)
# The layers of V: function, plain form, side of the input, shape of the kernel.
LAYERS = {
    "conv1": (convolution, PLAIN_CONVOLUTION, 64, (4, 4, 3, 32)),
    "conv2": (convolution, PLAIN_CONVOLUTION, 31, (4, 4, 32, 64)),
    "conv3": (convolution, PLAIN_CONVOLUTION, 14, (4, 4, 64, 128)),
    "conv4": (convolution, PLAIN_CONVOLUTION, 6, (4, 4, 128, 256)),
    "deconv1": (transposed_convolution, PLAIN_TRANSPOSED, 1, (5, 5, 128, 1024)),
    "deconv2": (transposed_convolution, PLAIN_TRANSPOSED, 5, (5, 5, 64, 128)),
    "deconv3": (transposed_convolution, PLAIN_TRANSPOSED, 13, (6, 6, 32, 64)),
    "deconv4": (transposed_convolution, PLAIN_TRANSPOSED, 30, (6, 6, 3, 32)),
}


def normal(seed, shape):
    return jax.random.normal(jax.random.key(seed), shape, jnp.float32)


def values_and_gradients(form, x, kernel):
    def both(x, kernel):
        y, pull = jax.vjp(form, x, kernel)
        return y, *pull(normal(2, y.shape))

    return jax.jit(both)(x, kernel)


def assert_same_as_plain(name, images):
    layer, plain, side, kernel_shape = LAYERS[name]
    x = normal(0, (images, side, side, kernel_shape[2] if layer is convolution else kernel_shape[3]))
    kernel = normal(1, kernel_shape) / float(np.sqrt(np.prod(kernel_shape) / kernel_shape[2]))
    found, expected = (values_and_gradients(form, x, kernel) for form in (layer, plain))
    for array, reference in zip(found, expected, strict=True):
        np.testing.assert_allclose(array, reference, atol=1e-5 * float(jnp.abs(reference).max()))


@pytest.mark.parametrize("name", LAYERS)
def test_same_values_and_gradients_as_the_plain_convolution(name):
    assert_same_as_plain(name, images=3)


@pytest.mark.parametrize(("images", "chunk"), [(4, 2), (5, 2), (3, 0.5)])
def test_working_in_chunks_makes_no_difference(images, chunk, monkeypatch):
    image_bytes = 4 * 25 * 36 * 64
    monkeypatch.setattr(layers, "_CHUNK_BYTES", int(chunk * image_bytes))
    assert_same_as_plain("deconv2", images)


def test_convolution_by_its_definition():
    x, kernel = normal(0, (2, 7, 7, 3)), normal(1, (4, 4, 3, 5))
    expected = np.zeros((2, 2, 2, 5))
    for i, j in np.ndindex(2, 2):
        window = x[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4]
        expected[:, i, j] = np.einsum("bhwc,hwco->bo", window, kernel)
    np.testing.assert_allclose(convolution(x, kernel), expected, atol=1e-5)


@pytest.mark.parametrize("size", [5, 6])
def test_transposed_convolution_by_its_definition(size):
    x, kernel = normal(0, (2, 3, 3, 4)), normal(1, (size, size, 2, 4))
    expected = np.zeros((2, 4 + size, 4 + size, 2))
    for i, j in np.ndindex(3, 3):
        expected[:, 2 * i : 2 * i + size, 2 * j : 2 * j + size] += np.einsum("bc,hwoc->bhwo", x[:, i, j], kernel)
    np.testing.assert_allclose(transposed_convolution(x, kernel), expected, atol=1e-5)


def test_the_two_are_adjoint():
    kernel, x, y = normal(0, (4, 4, 3, 5)), normal(1, (2, 10, 10, 3)), normal(2, (2, 4, 4, 5))
    there = jnp.vdot(convolution(x, kernel), y)
    back = jnp.vdot(x, transposed_convolution(y, kernel))
    np.testing.assert_allclose(there, back, rtol=1e-5)
