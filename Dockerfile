FROM python:3.13-slim
WORKDIR /app
COPY requirements.txt .
# xgboost brings 700 MB for GPUs that this service never touches; xgboost-cpu is the same module.
RUN sed -i 's/^xgboost==/xgboost-cpu==/' requirements.txt \
    && pip install --no-cache-dir -r requirements.txt
COPY model model
COPY static static
COPY gunicorn.conf.py model.py run.py ./
USER 65534
EXPOSE 3000
HEALTHCHECK CMD ["python", "-c", "import os, urllib.request as client; \
    client.urlopen('http://127.0.0.1:' + os.environ.get('PORT', '3000'), timeout=5)"]
CMD ["gunicorn", "run:app"]
