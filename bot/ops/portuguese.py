"""The system's own sentences in Portuguese, for the pages.

Reasons are decided, stored and audited as English sentences (docs/decisions/0017): one wording for the ledger, the
command line, Slack and alerts. A page shows them in its language. A sentence is known by its shape; what is not ours,
an operator's own reason above all, stays as it was written.
"""

import re
from functools import cache

# English as it is decided -> Portuguese. {n...}: a number or a duration, {w...}: a word, {who}: anything (in REMARKS),
# {age}, {traits}: see below.
SENTENCES = {
    # core/rollouts.py: what rolls back, what holds, what is missing
    "Its files are not the ones that were registered (SHA-256 differs).":
        "Os arquivos não são os que foram registrados (o SHA-256 é outro).",
    "It computes values that are not finite.": "Ela calcula valores que não são finitos.",
    "It cannot be loaded.": "Ela não pode ser carregada.",
    "Its last {n} replies failed, one after the other.": "As últimas {n} respostas falharam, uma após a outra.",
    "Evidence of harm reached {n} (limit {n2}): customers rate it worse.":
        "A evidência de dano chegou a {n} (limite {n2}): os clientes a avaliam pior.",
    "Evidence that it fails more often reached {n} (limit {n2}).":
        "A evidência de que falha mais chegou a {n} (limite {n2}).",
    "Evidence that it is slow more often reached {n} (limit {n2}).":
        "A evidência de que demora mais chegou a {n} (limite {n2}).",
    "Evidence that it is stopped or handed over more often reached {n} (limit {n2}).":
        "A evidência de que é contida ou passada a uma pessoa mais vezes chegou a {n} (limite {n2}).",
    "The plan freezes its weight instead of rolling back: abort it, or go on.":
        "O plano congela o peso em vez de reverter: aborte ou siga em frente.",
    "Units are not split as planned (evidence {n}): look for a bot or a bug.":
        "As pessoas não se dividem como planejado (evidência {n}): procure um robô ou um defeito.",
    "One arm is rated more often than it serves (evidence {n}): its ratings are biased.":
        "Um lado é mais avaliado do que atende (evidência {n}): as avaliações dele estão enviesadas.",
    "Evidence of harm is {n} (hold at {n2}): weight frozen.":
        "A evidência de dano está em {n} (retém em {n2}): peso congelado.",
    "People who were asked by the coin rate it worse (evidence {n}).":
        "As pessoas sorteadas para avaliar a avaliam pior (evidência {n}).",
    "No decision after {n} hours: promote or abort it by hand.":
        "Sem decisão depois de {n} horas: promova ou aborte à mão.",
    "{n} of {n2} challenger votes in this stage": "{n} de {n2} votos da nova versão nesta etapa",
    "{n} left of this stage's time": "faltam {n} do tempo desta etapa",
    "evidence of 'not worse by {n}' is {n2} of {n3}": "a evidência de que não é pior por {n} está em {n2} de {n3}",
    "evidence of 'not worse than the base by {n}' is {n2} of {n3}":
        "a evidência de que não é pior que a base por {n} está em {n2} de {n3}",
    "evidence that it fails more often is {n}, not under {n2}":
        "a evidência de que falha mais está em {n}, e não abaixo de {n2}",
    "evidence that it is slow more often is {n}, not under {n2}":
        "a evidência de que demora mais está em {n}, e não abaixo de {n2}",
    "evidence that it is stopped or handed over more often is {n}, not under {n2}":
        "a evidência de que é contida ou passada a uma pessoa mais vezes está em {n}, e não abaixo de {n2}",
    "Evidence of harm fell back to {n}: the weight is free again.":
        "A evidência de dano voltou a {n}: o peso está livre outra vez.",
    "The rollout is running.": "O lançamento está em andamento.",
    "The rollout is paused.": "O lançamento está em pausa.",
    "The rollout is held.": "O lançamento está retido.",
    "The rollout is promoted.": "O lançamento foi promovido.",
    "The rollout is rolled_back.": "O lançamento foi revertido.",
    "The rollout is aborted.": "O lançamento foi abortado.",
    "Not worse by {n}: evidence {n2} after {n3} challenger votes.":
        "Não é pior por {n}: evidência {n2} depois de {n3} votos da nova versão.",
    "The plan wants a person's word: npllm rollout promote.": "O plano espera uma pessoa: npllm rollout promote.",
    # bot/rollout_look.py, bot/controller.py
    "Promotions are frozen: ": "As promoções estão congeladas: ",
    "{n} smoke and {n2} shadowed questions were answered well.":
        "{n} perguntas de teste e {n2} em sombra foram bem respondidas.",
    "Smoke and shadow checks failed: ": "As verificações de teste e de sombra falharam: ",
    "It said nothing.": "Ela não disse nada.",
    "{n} of {n2} shadowed answers were stopped where the control's were not.":
        "{n} de {n2} respostas em sombra foram contidas onde as da versão atual não foram.",
    # bot/watch.py
    "It fell below the people held back: evidence {n} (limit {n2}).":
        "Ficou abaixo das pessoas reservadas: evidência {n} (limite {n2}).",
    "Satisfaction fell, whichever version answers: evidence {n} (limit {n2}). Promotions and nights wait.":
        "A satisfação caiu, seja qual for a versão: evidência {n} (limite {n2}). Promoções e noites esperam.",
    "People ask for other things than before: {traits}; {n} is another population.":
        "As pessoas pedem coisas diferentes de antes: {traits}; {n} já é outra população.",
    # learning/gate.py, learning/consolidate.py and what a night stops with
    "Its answers cannot be counted with (NaN or infinity): the training broke its weights.":
        "Com as respostas dela não se pode contar (NaN ou infinito): o treino estragou os pesos.",
    "The night has no hold-out: nothing proves that anything was learned.":
        "A noite não separou nada para medir: nada prova que algo foi aprendido.",
    "It learned nothing that can be shown: loss on the night's hold-out changed by {n} nats ({n2} to {n3}, {n4} rows).":
        "Não aprendeu nada que se possa mostrar: a perda no que a noite separou mudou {n} nats"
        " ({n2} a {n3}, {n4} linhas).",
    "The frozen base answers the night's hold-out better, by {n} nats a token.":
        "A base congelada responde melhor ao que a noite separou, por {n} nats por token.",
    "It forgot: {n} of the champion's accuracy is left, under {n2} always refused.":
        "Esqueceu: resta {n} do acerto da versão atual; abaixo de {n2} é sempre recusada.",
    "It forgot: {n} of the champion's accuracy is left, the target is {n2}.":
        "Esqueceu: resta {n} do acerto da versão atual; a meta é {n2}.",
    "It forgot: loss on earlier hold-outs rose by {n} (up to {n2}), {n3} is allowed.":
        "Esqueceu: a perda no que noites anteriores separaram subiu {n} (até {n2}); o permitido é {n3}.",
    "It forgot: {n} of what earlier nights had gained over the frozen base is left, {n2} is wanted.":
        "Esqueceu: resta {n} do que noites anteriores ganharam sobre a base congelada; o desejado é {n2}.",
    "It forgot what was learned {age}: loss rose by {n} there.":
        "Esqueceu o que foi aprendido {age}: ali a perda subiu {n}.",
    "It became less courteous or less safe: {n} of {n2} checks pass, the champion passes {n3}.":
        "Ficou menos cortês ou menos segura: passa em {n} de {n2} verificações; a versão atual passa em {n3}.",
    "It would keep people waiting: its answers have {n} characters, the champion's {n2};"
    " {n3} times as many are allowed.":
        "Faria as pessoas esperarem: as respostas dela têm {n} caracteres, as da versão atual {n2};"
        " o permitido é {n3} vezes isso.",
    "{n} new examples, {n2} are needed.": "{n} exemplos novos; são necessários {n2}.",
    "Too few new examples to hold any out: nothing could prove that anything was learned. They wait.":
        "Poucos exemplos novos para separar algum: nada provaria que algo foi aprendido. Eles esperam.",
    "It ended {n} times without a result; see the worker's log.":
        "Terminou {n} vezes sem resultado; veja o log do trabalhador.",
    "There is nothing to learn: no new example is left. npllm sleep history shows why.":
        "Não há o que aprender: não resta exemplo novo. npllm sleep history mostra por quê.",
    "The loss became {w} at step {n}. Lower LEARNING_RATE, or look at the night's examples.":
        "A perda virou {w} no passo {n}. Reduza LEARNING_RATE ou olhe os exemplos da noite.",
    "Data that it trained on was erased meanwhile: nothing is registered. The next night learns what is left.":
        "Dados do treino foram apagados no meio-tempo: nada é registrado. A próxima noite aprende o que resta.",
    "Somebody whose words it trained on took them back meanwhile: nothing is registered."
    " The next night learns what is left.":
        "Alguém retirou no meio-tempo palavras usadas no treino: nada é registrado."
        " A próxima noite aprende o que resta.",
    "{w}, whose weights it continues, is {w2} since: nothing is registered. The next night learns what is left.":
        "{w}, de cujos pesos ela parte, não atende mais ({w2}): nada é registrado."
        " A próxima noite aprende o que resta.",
}  # fmt: skip
# Known only where they are the whole reason: an operator may well write such words within a sentence.
REMARKS = {
    "a night registered it": "uma noite a registrou",
    "right after its promotion": "logo depois da promoção",
    "promoted by hand": "promovida à mão",
    "it serves already": "ela já atende",
    "{w} is newer": "{w} é mais nova",
    "{w} is quarantined": "{w} está em quarentena",
    "{w} is quarantined.": "{w} está em quarentena.",
    "withdrawn by {w}": "retirada da fila por {w}",
    # bot/handover.py, bot/handover_pages.py, bot/review/queue.py: what could not be done, and what now
    "This conversation was given back to the bot.": "Esta conversa já foi devolvida ao bot.",
    "{who} has this conversation.": "{who} está com esta conversa.",
    "Talk to them, or take another.": "Fale com essa pessoa ou assuma outra.",
    "The answer is empty.": "A resposta está vazia.",
    "Write it first.": "Escreva antes de enviar.",
    "The answer has more than {n} characters.": "A resposta tem mais de {n} caracteres.",
    "Send it in two.": "Envie em duas partes.",
    "This person asked for no more messages (PARAR).": "Esta pessoa pediu para não receber mais mensagens (PARAR).",
    "Give the conversation back to the bot.": "Devolva a conversa ao bot.",
    "There is no action '{who}'.": "Não existe a ação '{who}'.",
    "Use the page's own buttons.": "Use os botões da página.",
    "There is no verdict '{who}'.": "Não existe o veredito '{who}'.",
    "Choose approve, correct, reject.": "Escolha approve, correct ou reject.",
    "A correction needs the corrected answer.": "Uma correção precisa da resposta corrigida.",
    "Write what the bot should have said.": "Escreva o que o bot deveria ter dito.",
    "The correction has more than {n} characters.": "A correção tem mais de {n} caracteres.",
    "Answers to customers are short.": "Respostas a clientes são curtas.",
    "This item is already done.": "Este item já foi feito.",
    "Take the next one.": "Pegue o próximo.",
    "{who} is working on this item.": "{who} está cuidando deste item.",
    # bot/app.py, bot/ops/pages.py: what a link leads to no more
    "There is nothing at this address.": "Não há nada neste endereço.",
    "Open /ops, /review or /handover.": "Abra /ops, /review ou /handover.",
    "There is no such rollout.": "Não existe esse lançamento.",
    "/ops shows the latest of each context.": "Em /ops está o mais recente de cada contexto.",
    "There is no handover {who}.": "Não existe o atendimento {who}.",
    "Open /handover: it lists those that wait.": "Abra /handover: lá estão os que esperam.",
    "The ledger does not answer.": "O livro-razão não responde.",
    "Look at `npllm status`.": "Veja `npllm status`.",
}
_AGES = {
    "from the starter": "com o adaptador inicial", "last night": "na noite passada",
    "in the last week": "na última semana", "in the last month": "no último mês", "earlier": "antes",
}  # fmt: skip
_TRAITS = {"language": "idioma", "length": "tamanho", "redacted": "dados ocultados", "topic": "assunto"}


def in_portuguese(text: str | None) -> str:
    """A reason, or several in a row, as a page shows it."""
    for remark, portuguese in _known(whole=True):
        if found := remark.fullmatch(text or ""):
            return _filled(portuguese, found)
    said = text or ""
    for sentence, portuguese in _known(whole=False):
        said = sentence.sub(lambda found, portuguese=portuguese: _filled(portuguese, found), said)  # type: ignore[misc]
    return said


@cache
def _known(*, whole: bool) -> list[tuple[re.Pattern[str], str]]:
    return [(_pattern(english), portuguese) for english, portuguese in (REMARKS if whole else SENTENCES).items()]


def _pattern(english: str) -> re.Pattern[str]:
    """The sentence as a regular expression, its slots as groups."""
    slots = {
        "n": r"(?:\d+ days?, )?[-+]?\d(?:[\d.,:]*\d)?%?|over a million", "age": "|".join(_AGES), "traits": r"[^;]+",
        "w": r"[\w.+-]+", "who": r".+",
    }  # fmt: skip
    text, *rest = re.split(r"\{(\w+)\}", english)
    shape = re.escape(text)
    for name, text in zip(rest[::2], rest[1::2], strict=True):
        shape += f"(?P<{name}>{slots[name.rstrip('0123456789')]})" + re.escape(text)
    return re.compile(shape)


def _filled(portuguese: str, found: re.Match[str]) -> str:
    return portuguese.format(**{name: _slot(name, value) for name, value in found.groupdict().items()})


def _slot(name: str, value: str) -> str:
    if name == "who":
        return value
    if name == "age":
        return _AGES[value]
    if name == "traits":
        return re.sub("|".join(_TRAITS), lambda trait: _TRAITS[trait[0]], value).replace(".", ",")
    if name == "w" or ":" in value:  # a name; a duration
        return value.replace(" day", " dia")
    if value == "over a million":
        return "mais de um milhão"
    return value.translate(str.maketrans(",.", ".,"))
