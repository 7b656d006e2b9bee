// Where photos come from: a file, a drop, the clipboard, the camera.

const byId = (id) => document.getElementById(id);

/** Calls `take(file)` for every photo that the user gives, and `fail(message)` where there is none. */
export function listenForPhotos(take, fail) {
  for (const input of [byId("file"), byId("shot")]) {
    input.addEventListener("change", () => {
      if (input.files.length) take(input.files[0]);
      input.value = ""; // or else the same file could not be chosen again
    });
  }
  byId("open").addEventListener("click", () => byId("file").click());
  byId("camera").addEventListener("click", () => useCamera(take, fail));
  listenForDrops(take, fail);
  document.addEventListener("paste", (event) => {
    const file = event.clipboardData.files[0];
    if (file) take(file);
  });
}

function listenForDrops(take, fail) {
  const over = (is) => document.body.classList.toggle("dropping", is);
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    over(true);
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget ?? over(false));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    over(false);
    const file = event.dataTransfer.files[0];
    if (file) take(file);
    else fail("What was dropped is not a file; save the picture first, or copy and paste it");
  });
}

/** A phone's own camera takes better photos than a video stream; elsewhere the stream is shown. */
async function useCamera(take, fail) {
  const streams = navigator.mediaDevices?.getUserMedia && !matchMedia("(pointer: coarse)").matches;
  if (!streams) {
    byId("shot").click();
    return;
  }
  let stream;
  try {
    const video = { facingMode: "environment", width: { ideal: 1920 }, height: { ideal: 1440 } };
    stream = await navigator.mediaDevices.getUserMedia({ video });
  } catch (error) {
    fail(error.name === "NotAllowedError" ? "The camera was not allowed" : "No camera was found");
    return;
  }
  const file = await shownInViewfinder(stream);
  stream.getTracks().forEach((track) => track.stop());
  if (file) take(file);
}

/** Shows a stream until the user takes a photo of it, a File, or cancels: null. */
function shownInViewfinder(stream) {
  const dialog = byId("viewfinder");
  const video = dialog.querySelector("video");
  video.srcObject = stream;
  dialog.showModal();
  return new Promise((resolve) => {
    const ended = new AbortController();
    const end = (file) => {
      ended.abort();
      video.srcObject = null;
      dialog.close();
      resolve(file);
    };
    const listen = (target, name, action) => target.addEventListener(name, action, { signal: ended.signal });
    listen(byId("cancel"), "click", () => end(null));
    listen(dialog, "close", () => end(null)); // by Escape
    listen(byId("shoot"), "click", () => {
      if (!video.videoWidth) return; // the first frame is not there yet
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
      canvas.getContext("2d").drawImage(video, 0, 0);
      canvas.toBlob((blob) => end(new File([blob], "camera.png", { type: blob.type })), "image/png");
    });
  });
}
