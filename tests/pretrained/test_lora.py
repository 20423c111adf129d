"""LoRA files against peft and diffusers (PyTorch), in both directions, and against the formula."""

import difflax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from difflax.cli.sample import read_lora_flag
from difflax.models.lora import add_factors, by_layer, init_factors, matching_layers
from difflax.pretrained.lora import FILE, merge_lora, read_lora, save_lora
from difflax.pretrained.names import to_torch
from difflax.types import UserError

from tests.fixtures import make_stable_diffusion as reference

UNET = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "proj_in")
TEXT = ("q_proj", "out_proj", "fc1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return reference.build("sd15", tmp_path_factory.mktemp("checkpoint") / "sd15")


@pytest.fixture(scope="module")
def pipeline(folder):
    return difflax.from_pretrained(str(folder), variant="fp16")


@pytest.fixture(scope="module")
def networks(pipeline):
    return {"unet": pipeline.params, "text_encoder": pipeline.text_encoder.params}


def random_factors(networks, targets, rank=3, seed=0):
    """Both factors away from zero, so that the change is one."""
    factors = {}
    for number, (name, ends) in enumerate(targets.items()):
        layers = matching_layers(networks[name], ends, name)
        tree = init_factors(jax.random.key(seed + number), layers, rank)
        leaves, structure = jax.tree.flatten(tree)
        keys = jax.random.split(jax.random.key(100 + seed + number), len(leaves))
        drawn = [0.3 * jax.random.normal(k, a.shape) for k, a in zip(keys, leaves, strict=True)]
        factors[name] = jax.tree.unflatten(structure, drawn)
    return factors


@pytest.fixture(scope="module")
def saved(networks, tmp_path_factory):
    """A file of ours with ``alpha`` other than ``rank``."""
    place = tmp_path_factory.mktemp("ours")
    targets = {"unet": UNET, "text_encoder": TEXT}
    save_lora(place / FILE, random_factors(networks, targets), alpha=6.0, targets=targets)
    return place


def as_torch(params):
    return {name: np.asarray(tensor) for name, tensor in to_torch(params).items()}


def test_the_change_is_alpha_over_rank_times_b_a(saved, networks):
    """In PyTorch's layout, as the paper has it, computed by NumPy from the file alone."""
    tensors = safetensors.numpy.load_file(saved / FILE)
    before, after = (as_torch(n["unet"]) for n in (networks, merge_lora(saved, networks)))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    stems = {n.removeprefix("unet.").removesuffix(".lora_A.weight") for n in tensors if "lora_A" in n}
    assert changed == {f"{stem}.weight" for stem in stems if not stem.startswith("text_encoder")}
    for name in changed:
        down, up = (
            tensors[f"unet.{name.removesuffix('.weight')}.lora_{part}.weight"].astype(np.float64)
            for part in "AB"
        )
        expected = before[name] + 6.0 / 3.0 * np.tensordot(up.squeeze(), down.squeeze(), 1).reshape(
            before[name].shape
        )
        np.testing.assert_allclose(after[name], expected, rtol=1e-5, atol=1e-6)


def test_several_add_up_with_their_weights_and_nothing_is_nothing(saved, networks):
    once, twice = merge_lora(saved, networks, 0.5), merge_lora(saved, merge_lora(saved, networks, 0.3), 0.2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), once, twice)
    jax.tree.map(np.testing.assert_array_equal, merge_lora(saved, networks, 0.0), networks)


def test_a_file_read_again_is_the_factors_that_were_written(saved, networks):
    read = read_lora(saved / FILE, networks)
    written = random_factors(networks, {"unet": UNET, "text_encoder": TEXT})
    for name, lora in read.items():
        jax.tree.map(np.testing.assert_array_equal, lora.factors, written[name])
        assert set(lora.scales.values()) == {2.0}


def test_fresh_factors_change_nothing_and_have_the_gradient_of_both(networks):
    layers = matching_layers(networks["unet"], UNET, "unet")
    factors = init_factors(jax.random.key(0), layers, 4)
    jax.tree.map(np.testing.assert_array_equal, add_factors(networks["unet"], factors, 1.0), networks["unet"])
    gaps = [np.asarray(down) for down, _ in by_layer(factors).values()]
    drawn = np.concatenate([g.ravel() for g in gaps])
    assert abs(drawn.std() * 4 - 1) < 0.05  # peft's "gaussian": 1 / rank


def kohya(path, networks, tensors):
    """The same factors in the layout of kohya's scripts."""
    names = {"unet": "lora_unet_", "text_encoder": "lora_te_"}
    out = {}
    for name, tensor in tensors.items():
        network, rest = name.split(".", 1)
        stem, _, part = rest.removesuffix(".weight").rpartition(".")
        stem = names[network] + stem.replace(".", "_")
        out[f"{stem}.{ {'lora_A': 'lora_down', 'lora_B': 'lora_up'}[part] }.weight"] = tensor
        out[f"{stem}.alpha"] = np.array(6.0, np.float32)
    safetensors.numpy.save_file(out, path)


def test_kohyas_layout_is_the_same_lora(saved, networks, tmp_path):
    kohya(tmp_path / "kohya.safetensors", networks, safetensors.numpy.load_file(saved / FILE))
    ours, theirs = (merge_lora(p, networks) for p in (saved, tmp_path / "kohya.safetensors"))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


class TestAgainstDiffusers:
    """The same file here and there gives the same network and the same image."""

    pytestmark = pytest.mark.parity

    @pytest.fixture(scope="class")
    def theirs(self, folder):
        torch = pytest.importorskip("torch")
        pytest.importorskip("peft")
        import diffusers

        def make():
            made = diffusers.StableDiffusionPipeline.from_pretrained(
                folder, variant="fp16", torch_dtype=torch.float32
            )
            made.set_progress_bar_config(disable=True)
            return made

        return make

    @pytest.fixture(scope="class")
    def apply(self, pipeline):
        return jax.jit(pipeline.model.apply)

    def compare(self, theirs, ours, apply):
        import torch

        given = reference.references()
        noise, context = given["inputs.noise"], given["sd15.context"][:1]
        with torch.no_grad():
            expected = theirs.unet(
                torch.from_numpy(noise).permute(0, 3, 1, 2), torch.tensor([981]), torch.from_numpy(context)
            ).sample.permute(0, 2, 3, 1)
            image = theirs(
                reference.PROMPT,
                negative_prompt=reference.NEGATIVE,
                num_inference_steps=4,
                guidance_scale=4.0,
                height=reference.HEIGHT,
                width=reference.WIDTH,
                latents=torch.from_numpy(noise).permute(0, 3, 1, 2),
                output_type="np",
            ).images
        out = apply(ours.params, noise, jnp.asarray([981.0]), context)
        expected = expected.numpy()
        size = np.abs(expected).max()
        assert np.abs(np.asarray(out) - expected).max() / size < 1e-4
        # Without the LoRA it is another output.
        assert np.abs(given["sd15.unet"] - expected).max() / size > 0.05
        made = ours(
            reference.PROMPT,
            negative_prompt=reference.NEGATIVE,
            num_steps=4,
            guidance_scale=4.0,
            height=reference.HEIGHT,
            width=reference.WIDTH,
            latents=noise,
        )
        assert np.abs(made - image).max() < 2e-3

    def test_diffusers_reads_ours(self, theirs, pipeline, saved, apply):
        plain = theirs()
        plain.load_lora_weights(saved)
        plain.set_adapters(plain.get_active_adapters(), 0.7)
        self.compare(plain, pipeline.with_lora([(saved, 0.7)]), apply)

    @pytest.mark.parametrize("kind", ["with its config", "old spelling", "diffusers adapter", "peft adapter"])
    def test_we_read_what_peft_and_diffusers_write(self, theirs, pipeline, tmp_path, kind, apply):
        """``alpha`` is 2 for 4 of rank where the file says so; the old spelling has no place for it."""
        import diffusers
        import peft
        import torch

        their = theirs()
        alpha = 4 if kind == "old spelling" else 2
        unet = peft.LoraConfig(r=4, lora_alpha=alpha, target_modules=["to_q", "to_k", "to_out.0", "proj_in"])
        text = peft.LoraConfig(r=4, lora_alpha=alpha, target_modules=["q_proj", "fc2"])
        if kind == "peft adapter":
            wrapped = peft.get_peft_model(their.unet, unet)
        else:
            their.unet.add_adapter(unet)
        if "adapter" not in kind:
            # transformers' own add_adapter asks for a newer peft than there is.
            peft.inject_adapter_in_model(text, their.text_encoder)
        generator = torch.Generator().manual_seed(0)
        for network in (their.unet, their.text_encoder):
            for name, parameter in network.named_parameters():
                if "lora_" in name:
                    parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
        if kind == "peft adapter":
            wrapped.save_pretrained(tmp_path)
        elif kind == "diffusers adapter":
            their.unet.save_lora_adapter(tmp_path)
        else:
            states = [peft.get_peft_model_state_dict(n) for n in (their.unet, their.text_encoder)]
            facts = {}
            if kind == "old spelling":
                states = [diffusers.utils.convert_state_dict_to_diffusers(state) for state in states]
            else:
                facts = {
                    f"{n}_lora_adapter_metadata": {
                        "r": 4,
                        "lora_alpha": alpha,
                        "target_modules": sorted(config.target_modules),
                    }
                    for n, config in (("unet", unet), ("text_encoder", text))
                }
            their.save_lora_weights(
                tmp_path, unet_lora_layers=states[0], text_encoder_lora_layers=states[1], **facts
            )
        self.compare(their, pipeline.with_lora([(tmp_path, 1.0)]), apply)

    def test_kohyas_layout(self, theirs, pipeline, networks, saved, tmp_path, apply):
        path = tmp_path / "kohya.safetensors"
        kohya(path, networks, safetensors.numpy.load_file(saved / FILE))
        their = theirs()
        their.load_lora_weights(path)
        self.compare(their, pipeline.with_lora([(path, 1.0)]), apply)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a/b.safetensors", ("a/b.safetensors", 1.0)),
        ("a/b.safetensors:-0.5", ("a/b.safetensors", -0.5)),
        ("gs://a/b", ("gs://a/b", 1.0)),
        ("gs://a/b:2", ("gs://a/b", 2.0)),
    ],
)
def test_the_flag_of_the_command_line(given, expected):
    assert read_lora_flag(given) == expected
    with pytest.raises(UserError, match="no weight"):
        read_lora_flag(given + ":much")


def write(path, tensors):
    safetensors.numpy.save_file(tensors, path)
    return path


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"unet.nowhere.to_q.lora_A.weight": np.zeros((2, 8))}, "no LoRA of this model.*nowhere"),
        ({"unet.mid_block.attentions.0.proj_in.dora_scale": np.zeros(2)}, "only plain LoRA"),
        ({"unet.mid_block.attentions.0.proj_in.lora_A.weight": np.zeros((2, 16, 1, 1))}, "one factor of two"),
        (
            {
                "unet.mid_block.attentions.0.proj_in.lora_A.weight": np.zeros((2, 32, 1, 1)),
                "unet.mid_block.attentions.0.proj_in.lora_B.weight": np.zeros((32, 2, 1, 1)),
            },
            r"\(32, 32\) channels and not \(16, 16\)",
        ),
        (
            {
                "unet.mid_block.attentions.0.proj_in.lora_A.weight": np.full((2, 16, 1, 1), np.nan),
                "unet.mid_block.attentions.0.proj_in.lora_B.weight": np.zeros((16, 2, 1, 1)),
            },
            "not finite",
        ),
    ],
)
def test_files_that_do_not_fit(networks, tmp_path, tensors, says):
    path = write(tmp_path / "bad.safetensors", {k: v.astype(np.float32) for k, v in tensors.items()})
    with pytest.raises(UserError, match=says) as error:
        read_lora(path, networks)
    assert len(str(error.value).splitlines()) == 1


def test_what_is_no_lora(networks, saved, tmp_path):
    with pytest.raises(UserError, match="no pytorch_lora_weights"):
        read_lora(tmp_path, networks)
    with pytest.raises(UserError, match="pickle"):
        read_lora(tmp_path / "lora.bin", networks)
    with pytest.raises(UserError, match="finite"):
        merge_lora(saved, networks, float("nan"))
    with pytest.raises(UserError, match="did you mean 'to_q'"):
        matching_layers(networks["unet"], ["to_qq"], "config.tune.unet")
