"""Tensor names of a checkpoint -> roles: every tensor found, of its exact shape, and none left over."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from moestro.checkpoint.index import CheckpointIndex
from moestro.checkpoint.weights import LayerTensors, ModelWeights, TensorSlice
from moestro.models.claims import TensorClaims
from moestro.models.family import LAYER_NAMES, MODEL_NAMES, Family
from moestro.models.locate_experts import ExpertLocator
from moestro.models.roles import GATED_MLP, Shape, linear_shapes, model_shapes, small_shapes
from moestro.models.spec import LayerSpec, MlaSpec, ModelSpec, MoeSpec
from moestro.models.text_tower import tower_names

# Buffers that old checkpoints saved; the frequencies follow from the config.
_BUFFERS = (r"self_attn\.rotary_emb\.inv_freq",)

# Where layers that guess the tokens after the next are not numbered like the others.
_FURTHER = re.compile(r"(model\.)?mtp[._]")


def locate_weights(family: Family, spec: ModelSpec, index: CheckpointIndex) -> ModelWeights:
    """Where every weight of the model lies. Raises CheckpointError naming missing, misshapen and leftover tensors."""
    return _Locator(family, spec, index).locate()


class _Locator:
    def __init__(self, family: Family, spec: ModelSpec, index: CheckpointIndex) -> None:
        self._family = family
        self._spec = spec
        self._index = index
        self._claims = TensorClaims(index.tensors, str(index.directory))
        self._tower = tower_names(index.tensors, self._names("embed"))

    def locate(self) -> ModelWeights:
        spec, claims = self._spec, self._claims
        embed = claims.matrix(self._model_name("embed"), spec.vocab_size, spec.hidden_size)
        layers = tuple(self._layer(number, layer) for number, layer in enumerate(spec.layers))
        small = {shape.role: self._small(self._model_name(shape.role), shape) for shape in model_shapes(spec)}
        head = embed
        # A tied model that brings a head all the same means it: transformers unties the two where they differ.
        if not spec.tie_word_embeddings or self._model_name("head") in claims:
            head = claims.matrix(self._model_name("head"), spec.vocab_size, spec.hidden_size)
        claims.finish(ignorable=frozenset(self._ignorable()))
        return ModelWeights(embed, head, small, layers)

    def _layer(self, number: int, layer: LayerSpec) -> LayerTensors:
        prefix, spec, mlp = self._layer_prefix(number), self._spec, layer.mlp
        shapes = linear_shapes(spec, layer)
        rows = {shape.role: shape.rows for shape in shapes}
        linears = {shape.role: self._linear(prefix, shape, rows) for shape in shapes}
        small = {
            shape.role: self._small(self._small_name(number, layer, shape.role), shape)
            for shape in small_shapes(spec, layer)
            if not shape.role.startswith("expert_")
        }
        if not isinstance(mlp, MoeSpec):
            return LayerTensors(linears, small)
        parts = [prefix + self._layer_name(prefix, f"expert_{part}") for part in GATED_MLP]
        found = ExpertLocator(self._claims, prefix, parts, self._family, mlp, spec.hidden_size)
        return LayerTensors(linears, small | found.biases(), found.experts())

    def _linear(self, prefix: str, shape: Shape, rows: Mapping[str, int]) -> TensorSlice:
        mla, claims = self._spec.mla, self._claims
        if mla is not None and shape.role in ("k_up", "v_up"):
            return self._of_latent(prefix, shape, mla)
        for name, roles in self._family.stacked.items():
            if shape.role in roles and prefix + name in claims:
                all_rows = sum(rows[role] for role in roles)
                first = sum(rows[role] for role in roles[: roles.index(shape.role)])
                return claims.rows(prefix + name, (all_rows, shape.cols), first, shape.rows)
        through_latent = shape.role == "q" and mla is not None and mla.q_lora_rank is not None
        name = self._layer_name(prefix, "q_up" if through_latent else shape.role)
        return claims.matrix(prefix + name, shape.rows, shape.cols)

    def _of_latent(self, prefix: str, shape: Shape, mla: MlaSpec) -> TensorSlice:
        """k_up or v_up: a head's rows of one matrix [heads * (nope + v), latent] are its keys' and then its values'."""
        name = prefix + self._layer_name(prefix, "kv_up")
        heads, nope, values = self._spec.num_heads, mla.qk_nope_head_dim, mla.v_head_dim
        whole = (heads * (nope + values), mla.kv_lora_rank)
        if shape.role == "v_up":
            return self._claims.stack(name, whole, heads, nope, values, shape.rows)
        return self._claims.stack(name, whole, heads, 0, nope, shape.rows, transposed=True)

    def _small_name(self, number: int, layer: LayerSpec, role: str) -> str:
        if role == "router" and isinstance(layer.mlp, MoeSpec) and layer.mlp.pre_gated:
            number, role = number - 1, "pre_gate"  # it lies with the layer whose input it reads
        prefix = self._layer_prefix(number)
        return prefix + self._layer_name(prefix, role)

    def _small(self, name: str, shape: Shape) -> TensorSlice:
        if shape.rows == 1 and not shape.role.startswith("shared_weight"):
            return self._claims.vector(name, shape.cols)
        return self._claims.matrix(name, shape.rows, shape.cols)

    def _layer_prefix(self, number: int) -> str:
        return self._tower.name(self._names("layer")[0].format(l=number))

    def _model_name(self, role: str) -> str:
        return self._tower.name(self._names(role)[0])

    def _layer_name(self, prefix: str, role: str) -> str:
        names = self._names(role)
        return next((name for name in names if prefix + name in self._claims), names[0])

    def _names(self, role: str) -> tuple[str, ...]:
        """What a role may be called, the usual name first."""
        known = {**MODEL_NAMES, **LAYER_NAMES, **self._family.names}
        if role not in known and role.endswith("_bias"):
            return tuple(name.removesuffix("weight") + "bias" for name in self._names(role.removesuffix("_bias")))
        name = known[role]
        return (name,) if isinstance(name, str) else name

    def _ignorable(self) -> Iterator[str]:
        """Tensors that have no part in the answer: old buffers, a family's extras, what is beside the text tower."""
        unused = re.compile("|".join((*_BUFFERS, *self._family.unused)))
        layers = re.compile(re.escape(self._layer_prefix(0)).replace("0", r"(\d+)"))
        for name in self._index.tensors:
            layer = layers.match(name)
            if layer is None:
                further = self._spec.predicts_further and _FURTHER.match(name)
                if further or self._tower.beside(name) or name.endswith("rotary_emb.inv_freq"):
                    yield name
            elif int(layer[1]) >= self._spec.num_layers:
                if self._spec.predicts_further:  # layers that guess the tokens after the next
                    yield name
            elif unused.fullmatch(name, layer.end()):
                yield name
