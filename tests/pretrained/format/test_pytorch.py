"""PyTorch's files read without running what is in them."""

import io
import pickle
import zipfile

import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.pretrained.format.pytorch import open_tensors

RAN = []


class Hostile:
    """A pickle that calls a function of this file when it is read."""

    def __reduce__(self):
        return RAN.append, ("ran",)


def archive(path, pickled, **storages):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        for key, data in storages.items():
            file.writestr(f"archive/data/{key}", data)
    return path


class Global:
    """The name of something, pickled as such."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Pickler(pickle._Pickler):
    """Writes names that nothing here has."""

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Global):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        else:
            super().save(obj, save_persistent_id)

    def persistent_id(self, obj):
        return obj if isinstance(obj, tuple) and obj and obj[0] == "storage" else None


class Call:
    """A call of a name, pickled as such."""

    def __init__(self, module, name, *arguments):
        self.call = Global(module, name), arguments

    def __reduce__(self):
        return self.call


def tensor(key, shape, strides, offset=0, kind="FloatStorage"):
    storage = ("storage", Global("torch", kind), key, "cpu", 6)
    return Call("torch._utils", "_rebuild_tensor_v2", storage, offset, shape, strides, False, None)


def dumps(obj):
    out = io.BytesIO()
    pickler = Pickler(out, 2)
    # A pickler asks that what is called can be called.
    pickler.save_reduce = lambda func, args, *rest, obj=None, **more: [
        pickler.save(func),
        pickler.save(args),
        pickler.write(pickle.REDUCE),
    ]
    pickler.dump(obj)
    return out.getvalue()


NUMBERS = np.arange(6, dtype=np.float32)


def test_views_of_one_storage(tmp_path):
    views = {
        "a": tensor("0", (2, 3), (3, 1)),
        "b": tensor("0", (3, 2), (1, 3)),
        "c": tensor("0", (2,), (2,), 1),
    }
    found = open_tensors(archive(tmp_path / "w.pth", dumps(views), **{"0": NUMBERS.tobytes()}))
    np.testing.assert_array_equal(found["a"], NUMBERS.reshape(2, 3))
    np.testing.assert_array_equal(found["b"], NUMBERS.reshape(2, 3).T)
    np.testing.assert_array_equal(found["c"], [1, 3])


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda path: archive(path, pickle.dumps({"a": Hostile()})), "which no tensor needs"),
        (lambda path: path.write_bytes(pickle.dumps(Hostile())), "which no tensor needs"),
        (lambda path: archive(path, dumps({"a": Call("os", "system", "false")})), "'os.system'"),
        (lambda path: archive(path, dumps({"a": tensor("0", (3, 3), (3, 1))}), **{"0": NUMBERS.tobytes()}),
         "beyond its storage"),
        (lambda path: archive(path, dumps({"a": tensor("0", (2,), (-1,))}), **{"0": NUMBERS.tobytes()}),
         "no sound shape"),
        (lambda path: archive(path, dumps({"a": tensor("1", (2,), (1,))})), "data/1"),
        (lambda path: path.write_bytes(b"PK\x03\x04 and nothing"), "not a readable file"),
        (lambda path: path.write_bytes(b""), "not a readable file"),
        (lambda path: path.write_bytes(pickle.dumps(3) * 3), "does not begin"),
        (lambda path: None, "no w.pth"),
    ],
)  # fmt: skip
def test_what_is_not_tensors_is_refused_in_a_line(tmp_path, write, says):
    write(tmp_path / "w.pth")
    with pytest.raises(UserError) as raised:
        open_tensors(tmp_path / "w.pth")
    assert says in str(raised.value) and "\n" not in str(raised.value)
    assert not RAN
