// Java's HttpClient: HTTP/2 by Upgrade where it is taken up, HTTP/1.1 else.
// Usage: java Visit.java PORT [PATH]...
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.Arrays;
import java.util.concurrent.CompletableFuture;

class Visit {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        String base = "http://127.0.0.1:" + arguments[0];
        HttpRequest first = HttpRequest.newBuilder(URI.create(base + "/first?by=java")).build();
        System.out.println(client.send(first, BodyHandlers.ofString()).version());
        CompletableFuture<?>[] calls = Arrays.stream(arguments).skip(1)
            .map(path -> HttpRequest.newBuilder(URI.create(base + path))
                .header("X-Client", "java")
                .POST(BodyPublishers.ofString("amount=10"))
                .build())
            .map(request -> client.sendAsync(request, BodyHandlers.ofString()))
            .toArray(CompletableFuture<?>[]::new);
        CompletableFuture.allOf(calls).join();
        System.exit(0);
    }
}
