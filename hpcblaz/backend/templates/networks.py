"""Loops of networks that array operations do slowly: patches of images, pooling, convolutions of single channels.

Images have the axes (image, channel, row, column). A geometry is (kernel rows and columns, strides, dilations, rows and
columns of padding before); the rows and columns of the output are those of the arrays. Each call does a range of items
that no other call writes to.
"""

import math

import numpy as np
from numba import njit

from .constants import REAL

ZERO = REAL(0)
ONE = REAL(1)


@njit(error_model="numpy", nogil=True)
def inside(offset, stride, size, count):
    """Return the range of outputs whose sample at `offset` of their patch lies in an axis of so many samples."""
    first = 0
    if offset < 0:
        first = (-offset + stride - 1) // stride
    last = 0
    if size > offset:
        last = (size - offset + stride - 1) // stride
    return min(first, count), max(min(last, count), min(first, count))


@njit(error_model="numpy", nogil=True)
def gather_patches(start, stop, images, patches, geometry):
    """Write patches[channel, i, j, image, y, x], the sample (i, j) of the patch of an output, zero in the padding."""
    rows, columns, stride_y, stride_x, step_y, step_x, pad_y, pad_x = geometry
    channels, height, width = images.shape[1:]
    out_height, out_width = patches.shape[4:]
    for n in range(start, stop):
        for c in range(channels):
            for i in range(rows):
                for j in range(columns):
                    target = patches[c, i, j, n]
                    first, last = inside(j * step_x - pad_x, stride_x, width, out_width)
                    for y in range(out_height):
                        line = target[y]
                        v = y * stride_y + i * step_y - pad_y
                        if v < 0 or v >= height:
                            for x in range(out_width):
                                line[x] = ZERO
                            continue
                        for x in range(first):
                            line[x] = ZERO
                        middle = line[first:last]
                        source = images[n, c, v, first * stride_x + j * step_x - pad_x :]
                        if stride_x == 1:
                            for x in range(len(middle)):
                                middle[x] = source[x]
                        else:
                            for x in range(len(middle)):
                                middle[x] = source[x * stride_x]
                        for x in range(last, out_width):
                            line[x] = ZERO


@njit(error_model="numpy", nogil=True)
def scatter_patches(start, stop, images, patches, geometry):
    """Add up patches where they came from: the adjoint of `gather_patches`."""
    rows, columns, stride_y, stride_x, step_y, step_x, pad_y, pad_x = geometry
    channels, height, width = images.shape[1:]
    out_height, out_width = patches.shape[4:]
    for n in range(start, stop):
        for c in range(channels):
            images[n, c] = ZERO
            for i in range(rows):
                for j in range(columns):
                    source = patches[c, i, j, n]
                    first, last = inside(j * step_x - pad_x, stride_x, width, out_width)
                    for y in range(out_height):
                        v = y * stride_y + i * step_y - pad_y
                        if v < 0 or v >= height:
                            continue
                        middle = source[y, first:last]
                        target = images[n, c, v, first * stride_x + j * step_x - pad_x :]
                        if stride_x == 1:
                            for x in range(len(middle)):
                                target[x] += middle[x]
                        else:
                            for x in range(len(middle)):
                                target[x * stride_x] += middle[x]


@njit(error_model="numpy", nogil=True)
def gather_runs(start, stop, planes, patches, shifts):
    """Write patches[channel, k, image], as long a run of a plane as there is, from shifts[k] on, then zeros.

    With strides of 1, all outputs of a plane read a sample of their patches in one run, if the lines of outputs are as
    long as those of the plane: what is beyond the end of a line is of no meaning.
    """
    channels, size = planes.shape[1:]
    for n in range(start, stop):
        for c in range(channels):
            for k in range(len(shifts)):
                target = patches[c, k, n]
                source = planes[n, c, shifts[k] :]
                count = min(len(target), size - shifts[k])
                within = target[:count]
                for x in range(len(within)):
                    within[x] = source[x]
                beyond = target[count:]
                for x in range(len(beyond)):
                    beyond[x] = ZERO


@njit(error_model="numpy", nogil=True)
def scatter_runs(start, stop, planes, patches, shifts):
    """Add up runs where they came from: the adjoint of `gather_runs`."""
    channels, size = planes.shape[1:]
    for n in range(start, stop):
        for c in range(channels):
            plane = planes[n, c]
            for x in range(len(plane)):
                plane[x] = ZERO
            for k in range(len(shifts)):
                target = planes[n, c, shifts[k] :]
                within = patches[c, k, n, : size - shifts[k]]
                for x in range(len(within)):
                    target[x] += within[x]


@njit(error_model="numpy", nogil=True)
def convolve_channels(start, stop, images, weights, result, geometry):
    """Convolve each channel with its own kernels: output channel o reads channel o // (outputs a channel)."""
    rows, columns, stride_y, stride_x, step_y, step_x, pad_y, pad_x = geometry
    outputs, out_height, out_width = result.shape[1:]
    channels, height, width = images.shape[1:]
    for item in range(start, stop):
        n, o = item // outputs, item % outputs
        c = o // (outputs // channels)
        for y in range(out_height):
            line = result[n, o, y]
            for x in range(out_width):
                line[x] = ZERO
            for i in range(rows):
                v = y * stride_y + i * step_y - pad_y
                if v < 0 or v >= height:
                    continue
                for j in range(columns):
                    weight = weights[o, i, j]
                    first, last = inside(j * step_x - pad_x, stride_x, width, out_width)
                    middle = line[first:last]
                    source = images[n, c, v, first * stride_x + j * step_x - pad_x :]
                    if stride_x == 1:
                        for x in range(len(middle)):
                            middle[x] += weight * source[x]
                    else:
                        for x in range(len(middle)):
                            middle[x] += weight * source[x * stride_x]


@njit(error_model="numpy", nogil=True)
def spread_channels(start, stop, images, weights, result, geometry):
    """Write to images the adjoint of `convolve_channels` of a result; an item is a channel of an image."""
    rows, columns, stride_y, stride_x, step_y, step_x, pad_y, pad_x = geometry
    outputs, out_height, out_width = result.shape[1:]
    channels, height, width = images.shape[1:]
    many = outputs // channels
    for item in range(start, stop):
        n, c = item // channels, item % channels
        images[n, c] = ZERO
        for o in range(c * many, c * many + many):
            for y in range(out_height):
                line = result[n, o, y]
                for i in range(rows):
                    v = y * stride_y + i * step_y - pad_y
                    if v < 0 or v >= height:
                        continue
                    for j in range(columns):
                        weight = weights[o, i, j]
                        first, last = inside(j * step_x - pad_x, stride_x, width, out_width)
                        middle = line[first:last]
                        target = images[n, c, v, first * stride_x + j * step_x - pad_x :]
                        if stride_x == 1:
                            for x in range(len(middle)):
                                target[x] += weight * middle[x]
                        else:
                            for x in range(len(middle)):
                                target[x * stride_x] += weight * middle[x]


@njit(error_model="numpy", nogil=True, fastmath={"reassoc"})
def correlate_channels(start, stop, images, weights, result, geometry):
    """Write to weights the products of images and a result, summed; an item is an output channel."""
    rows, columns, stride_y, stride_x, step_y, step_x, pad_y, pad_x = geometry
    outputs, out_height, out_width = result.shape[1:]
    channels, height, width = images.shape[1:]
    for o in range(start, stop):
        c = o // (outputs // channels)
        for i in range(rows):
            for j in range(columns):
                first, last = inside(j * step_x - pad_x, stride_x, width, out_width)
                total = ZERO
                for n in range(len(images)):
                    for y in range(out_height):
                        v = y * stride_y + i * step_y - pad_y
                        if v < 0 or v >= height:
                            continue
                        middle = result[n, o, y, first:last]
                        source = images[n, c, v, first * stride_x + j * step_x - pad_x :]
                        if stride_x == 1:
                            for x in range(len(middle)):
                                total += middle[x] * source[x]
                        else:
                            for x in range(len(middle)):
                                total += middle[x] * source[x * stride_x]
                weights[o, i, j] = total


@njit(error_model="numpy", nogil=True)
def pool_largest(start, stop, images, result, places, geometry):
    """Write the largest sample of each patch, the first of equals, and where it is; NaN wins. An item is a plane."""
    rows, columns, stride_y, stride_x, step_y, step_x, pad_y, pad_x = geometry
    height, width = images.shape[1:]
    out_height, out_width = result.shape[1:]
    for item in range(start, stop):
        plane = images[item]
        for y in range(out_height):
            for x in range(out_width):
                best = -np.inf
                place = np.int32(-1)
                for i in range(rows):
                    v = y * stride_y + i * step_y - pad_y
                    if v < 0 or v >= height:
                        continue
                    for j in range(columns):
                        u = x * stride_x + j * step_x - pad_x
                        if u < 0 or u >= width:
                            continue
                        value = plane[v, u]
                        if value > best or place < 0 or (value != value and best == best):
                            best = value
                            place = np.int32(v * width + u)
                result[item, y, x] = best
                places[item, y, x] = place


@njit(error_model="numpy", nogil=True)
def pool_pairs(start, stop, images, result, places):
    """Do what `pool_largest` does for patches of 2 x 2 without padding, at strides of 2."""
    width = images.shape[2]
    out_height, out_width = result.shape[1:]
    for item in range(start, stop):
        for y in range(out_height):
            upper, lower = images[item, 2 * y], images[item, 2 * y + 1]
            for x in range(out_width):
                a, b, c, d = upper[2 * x], upper[2 * x + 1], lower[2 * x], lower[2 * x + 1]
                place = np.int32(2 * y * width + 2 * x)
                right = b > a or b != b
                best = b if right else a
                place += np.int32(1) if right else np.int32(0)
                below = d if d > c or d != d else c
                under = np.int32(2 * y * width + 2 * x + width)
                under += np.int32(1) if d > c or d != d else np.int32(0)
                down = below > best or below != below
                result[item, y, x] = below if down else best
                places[item, y, x] = under if down else place


@njit(error_model="numpy", nogil=True)
def spread_largest(start, stop, images, result, places):
    """Write to images the adjoint of pooling: each sample of the result goes to its place."""
    out_height, out_width = result.shape[1:]
    for item in range(start, stop):
        plane = images[item]
        for u in range(len(plane)):
            plane[u] = ZERO
        for y in range(out_height):
            for x in range(out_width):
                place = places[item, y, x]
                if place >= 0:
                    plane[place] += result[item, y, x]


@njit(error_model="numpy", nogil=True)
def error_function(start, stop, values, result):
    """Write the error function of values."""
    for k in range(start, stop):
        result[k] = math.erf(values[k])
