// Browsers refuse workers to pages that are opened from the disk. There the search runs in a hidden frame instead.
"use strict"
class FrameWorker extends EventTarget {
  constructor(url) {
    super()
    const frame = document.createElement("iframe")
    frame.hidden = true
    frame.srcdoc = "<!doctype html><title>search</title>"
    this.ready = new Promise((loaded) => {
      frame.addEventListener("load", () => {
        const inside = frame.contentWindow
        inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }))
        const script = inside.document.createElement("script")
        script.src = new URL(url, location.href).href
        script.addEventListener("load", () => loaded(inside))
        inside.document.body.append(script)
      }, { once: true })
    })
    document.body.append(frame)
  }

  postMessage(data) {
    this.ready.then((inside) => inside.dispatchEvent(new inside.MessageEvent("message", { data })))
  }

  terminate() {}
}
if (location.protocol === "file:") window.Worker = FrameWorker

// A query is message 2. In one, --no-voices is an option to find, and not a word to leave out.
const post = Worker.prototype.postMessage
Worker.prototype.postMessage = function (message) {
  const is_query = message.type === 2
  post.call(this, is_query ? { ...message, data: message.data.replace(/(^|\s)--(?=\w)/g, "$1") } : message)
}
