"""SigLIP against transformers' in PyTorch, on the same random weights and inputs."""

import jax.numpy as jnp
import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.pretrained.components.siglip import load_siglip
from difflax.text.siglip import canonical, siglip_network

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
WORDS = ["<pad>", "</s>", "<unk>", "a", "red", "blue", "circle", "square"]


def save_tokenizer(folder):
    from tokenizers import Tokenizer, models, pre_tokenizers

    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="</s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("siglip")
    torch.manual_seed(0)
    config = transformers.SiglipConfig(
        text_config=TOWER | {"vocab_size": len(WORDS), "max_position_embeddings": 6},
        # Patches do not tile the image, as in the so400m model of 384 pixels.
        vision_config=TOWER | {"image_size": 18, "patch_size": 4},
    )
    theirs = transformers.SiglipModel(config).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    theirs.save_pretrained(folder)
    save_tokenizer(folder)
    return theirs, load_siglip(folder)


def test_features_and_probabilities_are_transformers(pair):
    theirs, ours = pair
    texts = ["A red, circle.", "a blue square a blue square"]
    ids = ours.tokenize(texts)
    images = torch.randn(3, 3, 18, 18)
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor(ids).long(), pixel_values=images)
    text = np.asarray(ours.text_features(texts))
    pixels = jnp.asarray(images.permute(0, 2, 3, 1).numpy())
    image = np.asarray(siglip_network(ours.config).apply(ours.params, pixels, method="get_image_features"))
    np.testing.assert_allclose(text, expected.text_embeds, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(image, expected.image_embeds, rtol=1e-4, atol=1e-5)
    scale, bias = (float(ours.params[name][0]) for name in ("logit_scale", "logit_bias"))
    found = np.exp(scale) * text @ image.T + bias
    np.testing.assert_allclose(found, expected.logits_per_text, rtol=1e-4, atol=1e-4)


def test_texts_are_canonical_and_fill_all_positions(pair):
    assert canonical("  A red,\tCircle! ") == "a red circle"
    rows = pair[1].tokenize(["A RED... circle", "a blue square a blue square a"])
    assert [WORDS[i] for i in rows[0]] == ["a", "red", "circle", "</s>", "</s>", "</s>"]
    assert rows.shape == (2, 6)


def test_another_folder_is_one_line(clip_folder, tmp_path):
    for folder, says in [(clip_folder, "'clip' model"), (tmp_path, "no config.json")]:
        with pytest.raises(UserError, match=says):
            load_siglip(folder)
