import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

/** One GET with the JDK's HttpClient; ends with 0 only for a 200. */
class Fetch {
    public static void main(String[] args) throws Exception {
        var url = URI.create(System.getenv("BASE") + "/thing");
        // Over plain HTTP it would ask to be upgraded to HTTP/2.
        var version = url.getScheme().equals("http") ? HttpClient.Version.HTTP_1_1 : HttpClient.Version.HTTP_2;
        var request = HttpRequest.newBuilder(url).version(version).build();
        var answer = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
        System.out.println(answer.statusCode() + " " + answer.version() + " " + answer.body());
        System.exit(answer.statusCode() == 200 ? 0 : 1);
    }
}
