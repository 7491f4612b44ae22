"""Chat templates render as transformers renders them, and what they may not do is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from moestro.errors import CheckpointError, UsageError
from moestro.text.chat import ChatTemplates
from moestro.text.tokenizer_config import TokenizerConfig, read_tokenizer_config

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

LLAMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}
    {{- messages[0]['content'] }}{% set messages = messages[1:] %}
{% endif %}
{% for message in messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate') }}
    {% endif %}
    [{{ message.role }}] {{ message['content'] | trim }}{% if loop.last %}{{ eos_token }}{% endif %}

{% endfor %}
{% if add_generation_prompt %}[assistant]{% endif %}"""

CHATML = """{%- set state = namespace(count=0) %}
{%- for message in messages %}
    {%- if message.content is not string %}{% continue %}{% endif %}
    {%- set state.count = state.count + 1 %}
    {{- '<|im_start|>' + message.role + '\n' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}{{ message.content }}{% endgeneration %}
    {%- else %}{{ message.content }}{% endif %}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if tools %}{{ tools | tojson(indent=2) }}{{ dict(a=1) | tojson }}{% endif %}
{{- state.count }}{% if enable_thinking is defined %}{{ enable_thinking }}{% endif %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

TEMPLATES = {"llama": LLAMA, "chatml": CHATML}


def theirs(template):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0}, [])), **TOKENS)
    tokenizer.chat_template = template
    return tokenizer


def ours(template, tmp_path):
    return ChatTemplates(TokenizerConfig(TOKENS, {"default": template}), tmp_path)


conversations = st.lists(st.text("ab<é\"'&{}% \n", max_size=12), min_size=1, max_size=5).map(
    lambda texts: [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
)


@pytest.mark.parametrize("name", TEMPLATES)
@given(messages=conversations, prompt=st.booleans(), tools=st.booleans())
def test_rendered_as_transformers_does(tmp_path_factory, name, messages, prompt, tools):
    tool = [{"type": "function", "function": {"name": "f", "description": "<é>", "parameters": {"b": 1, "a": [2]}}}]
    given_tools = tool if tools else None
    expected = theirs(TEMPLATES[name]).apply_chat_template(
        messages, tokenize=False, add_generation_prompt=prompt, tools=given_tools, enable_thinking=False
    )
    templates = ours(TEMPLATES[name], tmp_path_factory.getbasetemp())
    rendered = templates.render(
        messages, add_generation_prompt=prompt, tools=given_tools, variables={"enable_thinking": False}
    )
    assert rendered == expected


@pytest.mark.parametrize(
    ("template", "error", "words"),
    [
        ("{{ raise_exception('no system role') }}", UsageError, "refuses these messages: no system role"),
        ("{{ messages.append(1) }}", CheckpointError, "unsafe"),
        ("{{ messages.__class__.__mro__ }}", CheckpointError, "unsafe"),
        ("{% set n = namespace(__x=1) %}", CheckpointError, "__x"),
        ("{% set n = namespace() %}{% set n._x = 1 %}", CheckpointError, "_x"),
        ("{% if %}", CheckpointError, "chat template of"),
        ("{{ messages[0].content + 1 }}", UsageError, "cannot use these messages"),
    ],
)
def test_what_a_template_may_not_do(tmp_path, template, error, words):
    with pytest.raises(error, match=words):
        ours(template, tmp_path).render([{"role": "user", "content": "hi"}])


def test_strftime_now(tmp_path):
    assert ours("{{ strftime_now('%Y') }}", tmp_path).render([{"role": "user", "content": ""}]).startswith("20")


@pytest.mark.parametrize("messages", ["hi", [], [{"content": "x"}], ["hi"], {"role": "user"}])
def test_messages_are_checked(tmp_path, messages):
    with pytest.raises(UsageError, match="messages"):
        ours("x", tmp_path).render(messages)


def test_a_model_without_a_template_says_so(tmp_path):
    with pytest.raises(UsageError, match=r"no chat template.*use generate"):
        ChatTemplates(read_tokenizer_config(tmp_path), tmp_path).render([{"role": "user", "content": "x"}])


def test_where_templates_and_special_tokens_come_from(tmp_path):
    config = {
        "bos_token": {"content": "<s>", "lstrip": False},
        "eos_token": "</s>",
        "pad_token": None,
        "chat_template": [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}],
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    read = read_tokenizer_config(tmp_path)
    assert read.special_tokens == TOKENS
    templates = ChatTemplates(read, tmp_path)
    user = [{"role": "user", "content": "x"}]
    assert (templates.render(user), templates.render(user, tools=[{}])) == ("D", "T")
    (tmp_path / "chat_template.jinja").write_text("file {{ bos_token }}")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("tool file")
    templates = ChatTemplates(read_tokenizer_config(tmp_path), tmp_path)
    assert (templates.render(user), templates.render(user, tools=[{}])) == ("file <s>", "tool file")


def test_a_broken_template_entry_is_named(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": 3}')
    with pytest.raises(CheckpointError, match=r"tokenizer_config.json: chat_template: expected a template"):
        read_tokenizer_config(tmp_path)
