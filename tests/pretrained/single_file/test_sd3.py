"""Stable Diffusion 3 and 3.5 in one file, in the original layout."""

import functools
import json
import types

import difflax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from difflax.config.pretrained import PretrainedOptions
from difflax.core.types import UserError
from difflax.models.autoencoder_kl import AutoencoderKLConfig, autoencoder_network
from difflax.parallel.sharding import MeshShape
from difflax.pretrained.families import sd3
from difflax.pretrained.families.family import Configs
from difflax.pretrained.format.torch_names import to_torch
from difflax.pretrained.single_file import clip as single_file_clip
from difflax.pretrained.single_file import t5 as single_file_t5
from difflax.pretrained.single_file.clip import infer_text_config
from difflax.pretrained.single_file.t5 import infer_t5_config
from difflax.pretrained.single_file.tensors import grouped
from difflax.runs.load import read_checkpoint
from difflax.text.clip_config import CLIPTextConfig
from difflax.text.encoders import text_network
from difflax.text.t5 import T5Config, t5_network
from difflax.text.t5_encoder import ZeroEncoder
from etils import epath

from tests.fixtures import full_width, full_width_sd3, make_shapes, original_layout
from tests.fixtures import make_stable_diffusion_3 as reference
from tests.runs import command

T5, CLIP_L, CLIP_G = (f"text_encoders.{name}.transformer." for name in ("t5xxl", "clip_l", "clip_g"))
CLIPS = (CLIP_L, CLIP_G)
DENOISER, VAE = "model.diffusion_model.", "first_stage_model."
LEFTOVERS = {
    "text_encoders.clip_l.logit_scale": np.ones((), np.float32),
    "text_encoders.t5xxl.logit_scale": np.ones((), np.float32),
    f"{CLIP_L}text_model.embeddings.position_ids": np.arange(77)[None],
    # Of OpenAI's CLIP, which neither Stability's code nor diffusers applies.
    f"{CLIP_L}text_projection.weight": np.full((16, 16), 7, np.float16),
}
OPTIONS = {"t5_length": reference.LENGTH, "variant": "fp16"}


def original(transformer, layers, vae, **texts):
    """Tensors by diffusers' and transformers' names as one file has them; ``texts``: by their prefixes."""
    wide = {n: t[..., None, None] if ".attentions.0.to_" in n and t.ndim == 2 else t for n, t in vae.items()}
    groups = {
        DENOISER: original_layout.mmdit(transformer, layers),
        VAE: original_layout.rename(wide, original_layout.vae_modules(4, 2)),
        **texts,
    }
    return {prefix + name: tensor for prefix, group in groups.items() for name, tensor in group.items()}


def save(path, tensors):
    # A safetensors file has no strides.
    safetensors.numpy.save_file({n: np.ascontiguousarray(t) for n, t in tensors.items()}, path)
    return path


@pytest.fixture(scope="module")
def checkpoint_of(tmp_path_factory):
    """The folder of a case, whose first CLIP's projection is the identity, and its tensors in the original
    layout.
    """

    @functools.cache
    def build(name):
        folder = reference.build(name, tmp_path_factory.mktemp("checkpoints") / name)

        def stored(part):
            [path] = (folder / part).glob("*.safetensors")
            return safetensors.numpy.load_file(path)

        def text(part):
            found = {n: t for n, t in stored(part).items() if not n.endswith("position_ids")}
            return {n if n.startswith("text_") else f"text_model.{n}": t for n, t in found.items()}

        first = folder / "text_encoder" / "model.fp16.safetensors"
        changed = stored("text_encoder") | {"text_projection.weight": np.eye(16, dtype=np.float16)}
        save(first, changed)
        texts = {CLIP_L: text("text_encoder"), CLIP_G: text("text_encoder_2"), T5: stored("text_encoder_3")}
        layers = json.loads((folder / "transformer/config.json").read_text())["num_layers"]
        return folder, original(stored("transformer"), layers, stored("vae"), **texts) | LEFTOVERS

    return build


def without(tensors, *prefixes):
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(prefixes)}


@pytest.mark.parametrize("name", reference.CASES)
def test_the_same_model_as_from_the_folder(name, checkpoint_of, tmp_path):
    folder, tensors = checkpoint_of(name)
    path = save(tmp_path / "one.safetensors", tensors)
    one = difflax.from_pretrained(str(path), config=str(folder), t5_length=reference.LENGTH)
    whole = difflax.from_pretrained(str(folder), **OPTIONS)
    for part in ("params", "autoencoder_params"):
        jax.tree.map(np.testing.assert_array_equal, getattr(one.model, part), getattr(whole.model, part))
    assert one.model.text_encoder.fingerprint() == whole.model.text_encoder.fingerprint()
    assert one.model.configs == whole.model.configs


@pytest.mark.parametrize("lost", [("text_encoders.",), (CLIP_G, T5), (T5,)])
def test_encoders_that_the_file_has_not_are_the_folders(lost, checkpoint_of, tmp_path):
    folder, tensors = checkpoint_of("sd3_medium")
    path = save(tmp_path / "one.safetensors", without(tensors, *lost))
    one = difflax.from_pretrained(str(path), config=str(folder), **OPTIONS)
    whole = difflax.from_pretrained(str(folder), **OPTIONS)
    assert one.model.text_encoder.fingerprint() == whole.model.text_encoder.fingerprint()
    assert one.model.configs == whole.model.configs


def test_without_t5_its_tokens_are_zeros(checkpoint_of, tmp_path):
    folder, tensors = checkpoint_of("sd3_medium")
    # Nothing of it is looked at, either.
    path = save(tmp_path / "one.safetensors", tensors | {f"{T5}shared.weight": np.ones(1, np.float16)})
    one = difflax.from_pretrained(str(path), config=str(folder), t5=False, t5_length=5)
    encoded = one.model.text_encoder.encode(["a cat"]).context
    np.testing.assert_array_equal(encoded[:, 77:], np.zeros((1, 5, 40)))


def test_convert(checkpoint_of, tmp_path):
    folder, tensors = checkpoint_of("sd35_medium")
    path, out = save(tmp_path / "one.safetensors", tensors), tmp_path / "out"
    arguments = (f"--pretrained={path}", f"--config={folder}", f"--output={out}")
    assert command("convert", *arguments)[0] == 0
    for part in ("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"):
        (before,), (after,) = ((place / part).glob("*.safetensors") for place in (folder, out))
        made = safetensors.numpy.load_file(after)
        expected = safetensors.numpy.load_file(before)
        assert len(made) == len(expected)
        for key, tensor in expected.items():
            key = key if key in made else f"text_model.{key}"
            np.testing.assert_array_equal(made[key], tensor.astype(np.float32))


def test_a_fine_tuning_run_starts_from_it(checkpoint_of, tmp_path):
    folder, tensors = checkpoint_of("sd35_large")
    path = save(tmp_path / "one.safetensors", without(tensors, "text_encoders."))
    options = {"variant": "fp16", "dtype": "float32"}
    one, whole = (
        read_checkpoint(PretrainedOptions(**options, **more), epath.Path(tmp_path), MeshShape().make())
        for more in ({"path": str(path), "config": str(folder)}, {"path": str(folder)})
    )
    jax.tree.map(np.testing.assert_array_equal, one.networks, whole.networks)
    for mine, theirs in zip(*map(jax.tree.leaves, (one.params, whole.params)), strict=True):
        assert mine.sharding == theirs.sharding
    with pytest.raises(UserError, match=r"config=.* is for a single file"):
        read_checkpoint(PretrainedOptions(path=str(folder), config=str(folder)), epath.Path(tmp_path))


@pytest.mark.parity
@pytest.mark.parametrize("name", reference.CASES)
def test_names_and_tensors_are_those_that_diffusers_converts_to(name, checkpoint_of):
    torch = pytest.importorskip("torch")
    from diffusers.loaders import single_file_utils as theirs

    _, tensors = checkpoint_of(name)
    [group] = grouped(tensors, (DENOISER,)).values()
    made = sd3.transformer_names(group, reference.TRANSFORMERS[reference.CASES[name][0]])
    given = {n: torch.from_numpy(t.copy()) for n, t in tensors.items() if n.startswith(DENOISER)}
    expected = theirs.convert_sd3_transformer_checkpoint_to_diffusers(given)
    assert made.keys() == expected.keys()
    for key, tensor in expected.items():
        assert tuple(made[key].shape) == tuple(tensor.shape)
        np.testing.assert_array_equal(np.asarray(made[key]), tensor.numpy())


# Of vae/config.json in stabilityai/stable-diffusion-3-medium-diffusers.
VAE_3 = {
    "latent_channels": 16,
    "sample_size": 1024,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
SMALL = {
    "num_layers": 2,
    "attention_head_dim": 64,
    "num_attention_heads": 1,
    "joint_attention_dim": 192,
    "caption_projection_dim": 64,
    "pooled_projection_dim": 128,
    "pos_embed_max_size": 4,
}
SMALL_TEXT = CLIPTextConfig(
    vocab_size=600,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=1,
    projection_dim=64,
)
SMALL_T5 = T5Config(
    vocab_size=50,
    d_model=192,
    d_kv=16,
    d_ff=32,
    num_layers=2,
    num_heads=4,
    feed_forward_proj="gated-gelu",
)


class TestWithoutConfig:
    """Random weights of a small structure whose heads have 64 channels, as those of the published models."""

    @pytest.fixture
    def tensors(self):
        rng = np.random.default_rng(0)

        def random(network):
            named = to_torch(network.abstract())
            return {n: rng.standard_normal(t.shape).astype(np.float16) for n, t in named.items()}

        vae = reference.VAE | {"block_out_channels": [32] * 4, "norm_num_groups": 32}
        files = {"index": {}, "network": SMALL, "autoencoder": vae, "scheduler": reference.FLOW}
        configs = Configs(family=sd3.STABLE_DIFFUSION_3, **files)
        model, autoencoder, _ = configs.build(jnp.float32)
        texts = {p: random(text_network(SMALL_TEXT, True)) for p in CLIPS}
        del texts[CLIP_L]["text_projection.weight"]
        texts[T5] = random(t5_network(SMALL_T5))
        return original(random(model), 2, random(autoencoder.network), **texts)

    @pytest.fixture
    def tokenizers(self, monkeypatch):
        """In place of those on the Hub."""
        place = reference.first.DIRECTORY / "tokenizer_1"
        monkeypatch.setattr(single_file_clip, "CLIP_TOKENIZER", str(place))
        monkeypatch.setattr(single_file_t5, "T5_TOKENIZER", str(reference.DIRECTORY / "tokenizer_3"))

    def test_a_file_with_everything_is_enough(self, tensors, tokenizers, tmp_path):
        pipeline = difflax.from_pretrained(str(save(tmp_path / "one.safetensors", tensors)), t5_length=7)
        pipeline.save_pretrained(tmp_path / "out")
        [transformer] = (tmp_path / "out/transformer").glob("*.safetensors")
        layout = original_layout.mmdit(safetensors.numpy.load_file(transformer), 2)
        for name, tensor in layout.items():
            np.testing.assert_array_equal(tensor, tensors[DENOISER + name].astype(np.float32))
        again = difflax.from_pretrained(str(tmp_path / "out"), t5_length=7)
        assert again.model.text_encoder.fingerprint() == pipeline.model.text_encoder.fingerprint()
        assert again.model.configs == pipeline.model.configs
        clip_l, clip_g, t5 = pipeline.model.text_encoder.towers
        np.testing.assert_array_equal(clip_l.params["text_projection"]["kernel"], np.eye(64))
        assert (clip_l.config.hidden_act, clip_g.config.hidden_act) == ("quick_gelu", "gelu")
        # OpenCLIP's tokenizer fills up with id 0, OpenAI's with the end of the text.
        assert (clip_l.tokenizer([""])[0, -1], clip_g.tokenizer([""])[0, -1]) == (
            clip_l.tokenizer([""])[0, 1],
            0,
        )
        assert t5.config == SMALL_T5
        assert (pipeline.defaults.height, pipeline.defaults.time_grid.shift, pipeline.defaults.num_steps) == (
            1024,
            3.0,
            28,
        )

    def test_a_file_without_t5_loads_without_it(self, tensors, tokenizers, tmp_path):
        path = save(tmp_path / "one.safetensors", without(tensors, T5))
        pipeline = difflax.from_pretrained(str(path))
        assert pipeline.model.text_encoder.towers[2] == ZeroEncoder(length=256, width=192)
        pipeline.save_pretrained(tmp_path / "out")
        index = json.loads((tmp_path / "out/model_index.json").read_text())
        assert index["text_encoder_3"] == index["tokenizer_3"] == [None, None]

    @pytest.mark.parity
    def test_diffusers_loads_what_is_saved(self, tensors, tokenizers, tmp_path):
        pytest.importorskip("torch")
        import diffusers

        pipeline = difflax.from_pretrained(str(save(tmp_path / "one.safetensors", tensors)))
        pipeline.save_pretrained(tmp_path / "out")
        theirs = diffusers.StableDiffusion3Pipeline.from_pretrained(tmp_path / "out")
        given = theirs.transformer.state_dict()
        for name, tensor in to_torch(pipeline.model.params).items():
            np.testing.assert_array_equal(given[name].numpy(), np.asarray(tensor))
        assert theirs.scheduler.config.shift == 3.0

    @pytest.mark.parametrize(
        ("lost", "says"),
        [
            ("text_encoders.", f"no text encoder under {CLIP_L} and {CLIP_G}: give config="),
            (CLIP_G, f"no text encoder under {CLIP_G}: give config=FOLDER_OR_HUB_ID .* has text_encoder_2"),
            (f"{DENOISER}pos_embed", "incomplete: missing pos_embed"),
            (f"{DENOISER}joint_blocks.0.", r"joint_blocks .* incomplete: there are those numbered \[1\]"),
            (f"{VAE}encoder.down.0.", "the encoder.down of the autoencoder"),
            (f"{CLIP_G}text_projection", "missing text_projection.weight"),
            (f"{T5}shared.", "missing shared.weight"),
        ],
    )
    def test_what_is_missing(self, lost, says, tensors, tokenizers, tmp_path):
        path = save(tmp_path / "one.safetensors", without(tensors, lost))
        with pytest.raises(UserError, match=says) as refused:
            difflax.from_pretrained(str(path))
        assert "\n" not in str(refused.value)


def test_the_number_of_heads_is_not_guessed(checkpoint_of, tmp_path):
    """SD3-medium has no norms of queries, whose width would tell."""
    path = save(tmp_path / "one.safetensors", checkpoint_of("sd3_medium")[1])
    with pytest.raises(UserError, match="width of 24, which heads of 64 channels do not divide"):
        difflax.from_pretrained(str(path))


@pytest.mark.parametrize(
    ("lost", "new", "says"),
    [
        ("-", {"surprise": (1,)}, "unexpected surprise"),
        ("-", {f"{DENOISER}surprise": (1,)}, f"unexpected {DENOISER}surprise"),
        # A name of diffusers is none of the file's.
        ("-", {f"{DENOISER}proj_out.bias": (64,)}, f"unexpected {DENOISER}proj_out.bias"),
        ("-", {f"{T5}surprise": (1,)}, "unexpected surprise"),
        (f"{DENOISER}final_layer.linear.bias", {}, "missing proj_out.bias"),
        (f"{DENOISER}joint_blocks.1.x_block.attn.qkv.bias", {}, "missing .*attn.to_q.bias.*attn.to_v.bias"),
        ("-", {f"{DENOISER}joint_blocks.1.x_block.attn.qkv.bias": (73,)}, "attn.to_v.bias has shape"),
        ("-", {f"{DENOISER}final_layer.adaLN_modulation.1.bias": ()}, "norm_out.linear.bias has shape"),
        ("-", {f"{DENOISER}joint_blocks.1.x_block.attn.qkv.weight": ()}, "attn.to_q.weight has shape"),
        (f"{VAE}decoder.conv_in.bias", {}, "missing decoder.conv_in.bias"),
        (VAE, {}, "alone, without tensors under first_stage_model.: take the file with"),
        (f"{CLIP_G}text_model.final_layer_norm.bias", {}, "missing text_model.final_layer_norm.bias"),
        (f"{T5}encoder.final_layer_norm.weight", {}, "missing encoder.final_layer_norm.weight"),
    ],
)
def test_files_that_do_not_fit(lost, new, says, checkpoint_of, tmp_path):
    folder, tensors = checkpoint_of("sd35_medium")
    changed = without(tensors, lost) | {name: np.zeros(shape, np.float16) for name, shape in new.items()}
    path = save(tmp_path / "one.safetensors", changed)
    with pytest.raises(UserError, match=says) as refused:
        difflax.from_pretrained(str(path), config=str(folder))
    assert "\n" not in str(refused.value)


def test_a_cut_file_and_options_of_others(checkpoint_of, tmp_path):
    folder, tensors = checkpoint_of("sd3_medium")
    path, cut = save(tmp_path / "one.safetensors", tensors), tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"cut.safetensors is not a readable safetensors file"):
        difflax.from_pretrained(str(cut), config=str(folder))
    with pytest.raises(UserError, match=r"prediction_type='epsilon' is for files of Stable Diffusion 1.x"):
        difflax.from_pretrained(str(path), prediction_type="epsilon")
    with pytest.raises(UserError, match="t5_length = 0 must be at least 1"):
        difflax.from_pretrained(str(path), t5_length=0)
    other = reference.first.build("sd15", tmp_path / "sd15")
    with pytest.raises(UserError, match=r"no model_index.json of a Stable Diffusion 3"):
        difflax.from_pretrained(str(path), config=str(other))
    # The folder has weights of the variant "fp16" alone.
    bare = save(tmp_path / "bare.safetensors", without(tensors, "text_encoders."))
    with pytest.raises(UserError, match=r"no model.safetensors in .*: there is model.fp16.safetensors"):
        difflax.from_pretrained(str(bare), config=str(folder))


@pytest.mark.parametrize("name", full_width_sd3.CONFIGS)
def test_the_published_structure_is_found_from_names_and_shapes(name):
    config = full_width_sd3.CONFIGS[name]
    # Elements of no bytes.
    shapes = full_width_sd3.shapes(name).items()
    transformer = {n: np.empty(shape, np.dtype([])) for n, shape in shapes}
    vae_config = AutoencoderKLConfig.from_config(full_width.VAE | VAE_3)
    vae = {
        n: types.SimpleNamespace(shape=t.shape)
        for n, t in to_torch(autoencoder_network(vae_config).abstract()).items()
    }
    files = sd3.infer(
        original_layout.mmdit(transformer, config["num_layers"]),
        original_layout.rename(vae, original_layout.vae_modules(4, 2)),
        [],
        None,
    )
    made = Configs(family=sd3.STABLE_DIFFUSION_3, **files)
    expected = {"_class_name": "SD3Transformer2DModel", "qk_norm": None, "dual_attention_layers": []} | config
    assert made.network == expected
    assert AutoencoderKLConfig.from_config(made.autoencoder) == vae_config
    assert made.build(jnp.float32)[2].time_grid.shift == 3.0


def test_the_published_text_encoders_are_found_from_names_and_shapes():
    config, shapes = make_shapes.read("big_g")
    tensors = {n: np.empty(shape, np.dtype([])) for n, shape in shapes.items()}
    named = {n if n.startswith("text_") else f"text_model.{n}": t for n, t in tensors.items()}
    made = infer_text_config(named, second=True, whole=True, renamed=True)
    assert CLIPTextConfig.from_config(made) == CLIPTextConfig.from_config(config)
    # google/t5-v1_1-xxl
    xxl = T5Config(vocab_size=32128, d_model=4096, d_ff=10240, num_layers=24, num_heads=64,
                   feed_forward_proj="gated-gelu")  # fmt: skip
    assert T5Config.from_config(infer_t5_config(to_torch(t5_network(xxl).abstract()))) == xxl
