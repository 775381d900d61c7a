"""
An independent check of signatures: ECDSA on secp256k1 (SEC 1, SEC 2) in plain integers.

It shares no code and no library with ``signer``, and so no bugs.  It is not
constant-time: never use it with a secret.
"""

from itertools import accumulate, repeat


P = 2**256 - 2**32 - 977
N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
G = (
    0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
    0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
)

Point = tuple[int, int]
"""An affine point."""

Jacobian = tuple[int, int, int]
"""The point (x / z**2, y / z**3); z is 0 for the point at infinity."""

INFINITY: Jacobian = (1, 1, 0)


class Verifier:
    """
    Checks the 65-byte signatures of one public key, given as ``04 || x || y``.

    With *tables*, multiples of G and of the key are computed first.  That takes as long
    as fifty checks, and makes each check ten times as fast.
    """

    def __init__(self, uncompressed: bytes, *, tables: bool = False) -> None:
        x, y = (int.from_bytes(uncompressed[i : i + 32], "big") for i in (1, 33))
        if uncompressed[0] != 4 or len(uncompressed) != 65 or not on_curve((x, y)):
            raise ValueError("not an uncompressed point of secp256k1")
        self._points = G, (x, y)
        self._tables = [_table(point) for point in self._points] if tables else None

    def accepts(self, digest: bytes, signature: bytes) -> bool:
        """
        Return whether Ethereum accepts *signature* (r, s, y-parity) over *digest*.

        It must have 65 bytes and low s (EIP-2), and R = (z/s) G + (r/s) Q must have r
        as its x coordinate and a y coordinate of the given parity.
        """
        r, s = (int.from_bytes(signature[i : i + 32], "big") for i in (0, 32))
        if len(signature) != 65 or not (0 < r < N and 0 < s <= N // 2):
            return False
        inverse = pow(s, -1, N)
        z = int.from_bytes(digest, "big")
        factors = z * inverse % N, r * inverse % N
        x, y = affine(self._tabled(*factors) if self._tables else self._sum(*factors))
        return (x, y & 1) == (r, signature[64])

    def _sum(self, *factors: int) -> Jacobian:
        total = INFINITY
        for shift in reversed(range(256)):
            total = double(total)
            for factor, point in zip(factors, self._points, strict=True):
                if factor >> shift & 1:
                    total = add(total, point)
        return total

    def _tabled(self, *factors: int) -> Jacobian:
        total = INFINITY
        for factor, table in zip(factors, self._tables or (), strict=True):
            for byte, row in zip(factor.to_bytes(32, "little"), table, strict=True):
                if byte:
                    total = add(total, row[byte - 1])
        return total


def on_curve(point: Point) -> bool:
    """Return whether y**2 = x**3 + 7 (mod P)."""
    x, y = point
    return x < P and y < P and (y * y - x * x * x - 7) % P == 0


def affine(point: Jacobian) -> Point:
    """Return the affine coordinates of a point that is not at infinity."""
    x, y, z = point
    inverse = pow(z, -1, P)
    return x * inverse**2 % P, y * inverse**3 % P


def add(left: Jacobian, right: Point) -> Jacobian:
    """Return *left* + *right*, also if they are equal or inverse."""
    x1, y1, z1 = left
    x2, y2 = right
    if z1 == 0:
        return x2, y2, 1
    zz = z1 * z1 % P
    h = (x2 * zz - x1) % P
    r = (y2 * zz * z1 - y1) % P
    if h == 0:
        return double(left) if r == 0 else INFINITY
    hh = h * h % P
    hhh = h * hh % P
    v = x1 * hh % P
    x3 = (r * r - hhh - 2 * v) % P
    return x3, (r * (v - x3) - y1 * hhh) % P, z1 * h % P


def double(point: Jacobian) -> Jacobian:
    """Return *point* + *point*; no point of this curve has order 2."""
    x, y, z = point
    s = 4 * x * y * y % P
    m = 3 * x * x % P
    x3 = (m * m - 2 * s) % P
    return x3, (m * (s - x3) - 8 * pow(y, 4, P)) % P, 2 * y * z % P


def _table(point: Point) -> list[list[Point]]:
    """Return 32 rows; row i holds 1 to 255 times 256**i times *point*."""
    rows = []
    for _ in range(32):
        *row, following = _affine_all(
            [*accumulate(repeat(point, 256), add, initial=INFINITY)][1:]
        )
        rows.append(row)
        point = following
    return rows


def _affine_all(points: list[Jacobian]) -> list[Point]:
    """Return the affine coordinates of *points*, with a single inversion."""
    products = [
        *accumulate((z for _, _, z in points), lambda a, b: a * b % P, initial=1)
    ]
    inverse = pow(products.pop(), -1, P)
    result = []
    for (x, y, z), before in zip(reversed(points), reversed(products), strict=True):
        own = inverse * before % P
        inverse = inverse * z % P
        result.append((x * own * own % P, y * own * own * own % P))
    return result[::-1]
