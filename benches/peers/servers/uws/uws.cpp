// The contestant `uws`: uWebSockets as its documentation shows it, one thread, publish to a topic.
//
// Usage: uws PORT. `/ws?room_id=R` subscribes to R, messages on `/pub?room_id=R` are published to R.
#include "App.h"

#include <cstdio>
#include <cstdlib>
#include <string>

struct Session {
    std::string room;
};

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: uws PORT\n");
        return 2;
    }
    uWS::App app;
    auto upgrade = [](auto *response, auto *request, auto *context) {
        response->template upgrade<Session>(
            {std::string(request->getQuery("room_id"))},
            request->getHeader("sec-websocket-key"),
            request->getHeader("sec-websocket-protocol"),
            request->getHeader("sec-websocket-extensions"), context);
    };
    uWS::App::WebSocketBehavior<Session> subscriber;
    subscriber.upgrade = upgrade;
    subscriber.open = [](auto *socket) { socket->subscribe(socket->getUserData()->room); };
    uWS::App::WebSocketBehavior<Session> publisher;
    publisher.upgrade = upgrade;
    publisher.message = [&app](auto *socket, std::string_view message, uWS::OpCode) {
        app.publish(socket->getUserData()->room, message, uWS::OpCode::TEXT);
    };
    app.ws<Session>("/ws", std::move(subscriber))
        .ws<Session>("/pub", std::move(publisher))
        .listen("127.0.0.1", atoi(argv[1]), [](auto *listening) {
            if (!listening) {
                fprintf(stderr, "cannot listen\n");
                exit(1);
            }
        })
        .run();
}
