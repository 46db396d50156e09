"""Pooling: one vector an utterance, from its own frames alone."""

import torch

from cpc.models.pooling import AttentiveConfig, MeanConfig, ProjectionConfig, build_pooling, build_projection

FRAMES = torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(0))


def test_the_mean_is_the_mean_of_the_first_counts_frames() -> None:
    pooling = build_pooling(MeanConfig(), 4)
    torch.testing.assert_close(pooling(FRAMES), FRAMES.mean(1))
    pooled = pooling(FRAMES, torch.tensor([7, 3, 1]))
    for row, count in enumerate((7, 3, 1)):
        torch.testing.assert_close(pooled[row], FRAMES[row, :count].mean(0))
    assert not list(pooling.parameters())


def test_attention_weighs_frames_by_what_its_layer_says_and_padding_by_nothing() -> None:
    torch.manual_seed(0)
    pooling = build_pooling(AttentiveConfig(width=5), 4)
    hidden, out = pooling.network[0], pooling.network[2]  # type: ignore[index, union-attr]
    for row, count in enumerate((7, 3, 1)):
        own = FRAMES[row, :count]
        scores = [(out.weight[0] @ torch.tanh(hidden.weight @ frame + hidden.bias)).item() for frame in own]
        weights = torch.tensor(scores).exp()
        expected = (weights[:, None] * own).sum(0) / weights.sum()
        torch.testing.assert_close(pooling(FRAMES, torch.tensor([7, 3, 1]))[row], expected)


def test_a_projection_has_the_layers_that_it_is_asked_for() -> None:
    for layers, weights in ((0, 0), (1, 4 * 6 + 6), (3, 4 * 5 + 5 + 5 * 5 + 5 + 5 * 6 + 6)):
        head = build_projection(ProjectionConfig(layers, width=5, dim=6), 4)
        assert sum(p.numel() for p in head.parameters()) == weights
        assert head(FRAMES).shape == (3, 7, 6 if layers else 4)
