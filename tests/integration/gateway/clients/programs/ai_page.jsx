// A page around the code of docs/howto/ai-sdk.md. Tests read `window.chat`.

import { createRoot } from "react-dom/client";
import { useDarkq } from "use-darkq";

function Page() {
  const chat = useDarkq("chat-1");
  window.chat = chat;
  const send = (event) => {
    event.preventDefault();
    void chat.sendMessage({ text: new FormData(event.target).get("prompt") });
  };
  return (
    <main>
      {chat.messages.map(({ id, parts }) => (
        <article key={id}>
          {parts.map((part, n) => part.type === "text" && <span key={n}>{part.text}</span>)}
        </article>
      ))}
      <form onSubmit={send}>
        <input name="prompt" />
      </form>
      <button onClick={chat.cancel}>Stop</button>
      <output>{chat.status}</output>
    </main>
  );
}

createRoot(document.getElementById("root")).render(<Page />);
