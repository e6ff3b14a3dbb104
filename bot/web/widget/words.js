// Everything the widget says itself.
const WORDS = {
  pt: {
    open: "Abrir conversa", close: "Fechar conversa", title: "Fale com {assistant}", log: "Conversa",
    hello: "Olá! Sou {assistant}, da {business}. Como posso ajudar?",
    message: "Mensagem", placeholder: "Escreva sua mensagem", send: "Enviar", menu: "Mais opções",
    typing: "{assistant} está escrevendo", you: "Você", bot: "{assistant}", person: "Atendente",
    up: "Gostei", down: "Não gostei", thanks: "Obrigada pelo retorno!", why: "O que faltou?",
    whyPlaceholder: "Conte o que faltou (opcional)", comment: "Enviar comentário", skip: "Agora não",
    rate: "Encerrar e avaliar", rateTitle: "Como foi a conversa?", stars: ["1 estrela", "2 estrelas", "3 estrelas", "4 estrelas", "5 estrelas"],
    rateComment: "Quer dizer mais alguma coisa?", rateSend: "Enviar avaliação", rateThanks: "Obrigada! Sua avaliação nos ajuda a melhorar.", back: "Voltar à conversa",
    toBot: "Voltar ao assistente", toBotSay: "BOT", askPerson: "Falar com uma pessoa", askPersonSay: "Quero falar com uma pessoa",
    noTraining: "Não aprender com minhas mensagens", noTrainingSay: "NÃO TREINAR",
    stop: "Parar as respostas", stopSay: "PARAR", resume: "Voltar a conversar", resumeSay: "VOLTAR",
    forget: "Esquecer a conversa neste aparelho", yes: "Sim, pode", yesSay: "SIM", no: "Não", noSay: "NÃO",
    withPerson: "Você está com nossa equipe. Uma pessoa vai responder aqui.",
    stopped: "Você pediu para parar; nada mais será respondido.",
    failed: "Não foi enviada.", retry: "Tentar de novo", slow: "Muitas mensagens. Tente de novo em {seconds} s.",
    late: "A resposta está demorando; ela aparece aqui assim que chegar.", offline: "Sem conexão.", trouble: "Algo deu errado do nosso lado; tente de novo em um instante.",
    machine: "Assistente de IA. Confira o que for importante.", unread: "Nova mensagem",
  },
  en: {
    open: "Open chat", close: "Close chat", title: "Chat with {assistant}", log: "Conversation",
    hello: "Hello! I am {assistant}, of {business}. How can I help?",
    message: "Message", placeholder: "Write your message", send: "Send", menu: "More options",
    typing: "{assistant} is writing", you: "You", bot: "{assistant}", person: "Agent",
    up: "I like it", down: "I do not like it", thanks: "Thank you for telling us!", why: "What was missing?",
    whyPlaceholder: "Tell us what was missing (optional)", comment: "Send comment", skip: "Not now",
    rate: "End and rate", rateTitle: "How was the conversation?", stars: ["1 star", "2 stars", "3 stars", "4 stars", "5 stars"],
    rateComment: "Anything else you want to say?", rateSend: "Send rating", rateThanks: "Thank you! Your rating helps us improve.", back: "Back to the conversation",
    toBot: "Back to the assistant", toBotSay: "BOT", askPerson: "Talk to a person", askPersonSay: "I want to talk to a person",
    noTraining: "Do not learn from my messages", noTrainingSay: "DO NOT TRAIN",
    stop: "Stop answering me", stopSay: "STOP", resume: "Talk again", resumeSay: "START",
    forget: "Forget the conversation on this device", yes: "Yes, you may", yesSay: "YES", no: "No", noSay: "NO",
    withPerson: "You are with our team. A person will answer here.",
    stopped: "You asked us to stop; nothing more will be answered.",
    failed: "It was not sent.", retry: "Try again", slow: "Many messages. Try again in {seconds} s.",
    late: "The answer takes long; it will appear here when it comes.", offline: "No connection.", trouble: "Something went wrong on our side; try again in a moment.",
    machine: "AI assistant. Check what matters.", unread: "New message",
  },
};

// The language a page asks for, the page's own, or the browser's; Portuguese where none of them is known.
export function wordsFor(asked) {
  const wanted = [asked, document.documentElement.lang, ...navigator.languages].filter(Boolean);
  const language = wanted.map((tag) => tag.slice(0, 2).toLowerCase()).find((tag) => tag in WORDS) ?? "pt";
  return { ...WORDS[language], language };
}

export const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
